// Is a plan one that can be carried out? It may come from anybody's file. Answers with a clause that
// follows the guest's name, or undefined if all is well.

type Check = (value: unknown) => boolean;
const whole = (least: number, most: number): Check => (value) => typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most;
const isText: Check = (value) => typeof value === 'string' && value.length <= 64;
const isFlag: Check = (value) => value === undefined || typeof value === 'boolean';
const count = whole(0, 0xff_ffff);
const orAbsent = (check: Check): Check => (value) => value === undefined || check(value);

type Steps = Readonly<Record<string, Readonly<Record<string, Check>>>>;
const DISK_STEPS: Steps = {
  write: { page: count, pages: count, value: whole(0, 0xffff_ffff), barrier: isFlag, ahead: isFlag },
  flush: {},
  check: { page: count, pages: count, value: whole(0, 0xffff_ffff), ahead: isFlag },
  sleep: { ns: whole(0, 1e15) },
};

const isIp: Check = (value) => typeof value === 'string' && /^(\d{1,3}\.){3}\d{1,3}$/.test(value) && value.split('.').every((part) => Number(part) < 256);
const NET_STEPS: Steps = {
  ping: { to: isIp, times: whole(0, 1e6) },
  udp: { to: isIp, times: whole(0, 1000) },
  serve: { ns: orAbsent(whole(0, 1e15)), pings: orAbsent(whole(0, 1e6)) },
};

const fieldsOf = (value: unknown): Readonly<Record<string, unknown>> => (typeof value === 'object' && value !== null ? value : {}) as Readonly<Record<string, unknown>>;

function stepsProblem(steps: unknown, rows: Steps): string | undefined {
  if (!Array.isArray(steps)) return 'steps that are not a list';
  for (const step of steps as readonly unknown[]) {
    const fields = fieldsOf(step);
    const name = fields['do'];
    const row = typeof name === 'string' && Object.hasOwn(rows, name) ? rows[name] : undefined;
    if (row === undefined) return `a step ${JSON.stringify(name) ?? 'without do'}; the steps are ${Object.keys(rows).join(', ')}`;
    for (const [field, check] of Object.entries(row)) if (!check(fields[field])) return `a step ${String(name)} whose ${field} cannot be ${JSON.stringify(fields[field])}`;
  }
  return undefined;
}

/** Jobs of one kind: a list; `fields` of each besides its steps. */
function jobsProblem(jobs: unknown, what: string, fields: Readonly<Record<string, Check>>, rows: Steps): string | undefined {
  if (jobs === undefined) return undefined;
  if (!Array.isArray(jobs)) return `drivers whose ${what} are not a list`;
  for (const job of jobs as readonly unknown[]) {
    for (const [field, check] of Object.entries(fields)) if (!check(fieldsOf(job)[field])) return `drivers whose ${what} have a ${field} that cannot be ${JSON.stringify(fieldsOf(job)[field])}`;
    const problem = stepsProblem(fieldsOf(job)['steps'], rows);
    if (problem !== undefined) return `drivers whose ${what} have ${problem}`;
  }
  return undefined;
}

export function planProblem(plan: unknown): string | undefined {
  if (plan === undefined) return undefined;
  if (typeof plan !== 'object' || plan === null) return 'drivers that are no plan';
  const { disks, nets } = plan as Readonly<Record<string, unknown>>;
  const problem = jobsProblem(disks, 'disks', { disk: isText }, DISK_STEPS) ?? jobsProblem(nets, 'nets', { vif: whole(0, 255), ip: isIp }, NET_STEPS);
  return problem === undefined ? undefined : `has ${problem}`;
}
