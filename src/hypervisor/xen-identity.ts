// What this simulated Xen says of itself: xen_version, CPUID and the version checks of guests.

/** The Xen whose rules are followed, as XENVER_version shows it; xen3 personalities show 3.x. */
export const XEN_VERSION = { major: 4, minor: 23, extra: '-rexen' } as const;
export const XEN3_VERSION = { major: 3, minor: 4, extra: '.4-rexen' } as const;

export const XEN_COMPILE = { compiler: 'rexen', by: 'rexen', domain: '', date: 'Thu Jan  1 00:00:00 UTC 1970' } as const;
export const XEN_CHANGESET = 'rexen';
