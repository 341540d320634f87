// What a user gets for a bad recording: one sentence with the file, the place, what is wrong there
// and what to do about it. The CLI prints it and exits with 2.
import { UsageError } from '../base/assert.ts';

/** Why a recording cannot be used, for programs; the message is for people. */
export type RecordingFault = 'foreign' | 'newer' | 'damaged' | 'truncated' | 'image' | 'empty' | 'segment';

export class RecordingError extends UsageError {
  override readonly name: string = 'RecordingError';
  readonly fault: RecordingFault;
  readonly file: string;
  /** Byte offset in the file where the trouble was noticed. */
  readonly offset: number;

  constructor(fault: RecordingFault, file: string, offset: number, what: string, advice: string) {
    super(`${file}: ${what}${offset > 0 ? ` (at byte ${offset})` : ''}; ${advice}`);
    this.fault = fault;
    this.file = file;
    this.offset = offset;
  }
}
