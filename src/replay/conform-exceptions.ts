// Scripts whose recorded answer we believe to be wrong, one by one, with the reason. They are run and
// reported like all others; only the verdict on the whole set does not depend on them.

/** By script id. */
export const BAD_RECORDINGS: Readonly<Record<string, string>> = {
  'pv32pae/mm/ptwr.on/16':
    'The guest stores only the high half of an entry that named live_l2, so the word read back holds the raw machine frame number of that recording run (0xed4f); no other machine can give it. FORMAT section 11 describes this kind.',
};
