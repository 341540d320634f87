// How a run can end, as rows: what `outcome` says in JSON, and whether a recording run that ends so
// did what it was asked to (exit code 0) or not (1).

export const OUTCOMES = {
  poweroff: { done: true, text: 'the guest powered off' },
  reboot: { done: true, text: 'the guest asked for a reboot' },
  suspend: { done: true, text: 'the guest suspended' },
  halted: { done: true, text: 'the guest halted with events masked' },
  stopped: { done: true, text: 'stopped at the requested position' },
  quit: { done: true, text: 'ended by the user' },
  crash: { done: false, text: 'the guest crashed' },
  watchdog: { done: false, text: "the guest's watchdog expired" },
  misconduct: { done: false, text: 'the guest or a back end did what it must not' },
  stuck: { done: false, text: 'the guest waits for an event that can never come' },
  limit: { done: false, text: 'the limit of instructions or of virtual time was reached' },
} as const;
export type Outcome = keyof typeof OUTCOMES;

/** SHUTDOWN_* of xen/include/public/sched.h. */
export const SHUTDOWN_OUTCOME: Readonly<Record<number, Outcome>> = { 0: 'poweroff', 1: 'reboot', 2: 'suspend', 3: 'crash', 4: 'watchdog', 5: 'reboot' };
