// Where QEMU 7.2 answers otherwise than the processor does: the expected answers are QEMU's with
// these rows applied. Sources: Intel SDM vols. 2 and 3; for user-mode behaviour the vectors of this
// folder, which a real processor gave.

export interface Correction {
  readonly image: string;
  /** The lines concerned. */
  readonly line: RegExp;
  /** Applied to each of them, everywhere in the line. */
  readonly from: RegExp;
  readonly to: string | ((match: string) => string);
  readonly why: string;
}

const plusOne = (match: string): string => match.replace(/[0-9a-f]+/i, (digits) => (parseInt(digits, 16) + 1).toString(16));

export const CORRECTIONS: readonly Correction[] = [
  {
    image: 'gates', line: /^(ud2 through|ud2 to|ud2 beyond)/, from: /\([0-9a-f]+\)/, to: plusOne,
    why: 'a fault while an exception is delivered has EXT set in its error code (SDM vol. 3, 6.13); QEMU leaves it out',
  },
  {
    image: 'gates', line: /^(fault \/|tss limit .* ud2)/, from: /\([0-9a-f]+\)/, to: plusOne,
    why: 'as above: #TS while delivering an exception carries EXT',
  },
  {
    image: 'gates', line: /^(soft|fault) \/ absent \/|^ss1 69 call/, from: /#TS/, to: '#SS',
    why: 'a new stack segment that is not present is #SS, not #TS (SDM vol. 2, INT n and CALL)',
  },
  {
    image: 'gates', line: /^ring \d cs 3b ss 6b /, from: /#NP/, to: '#SS',
    why: 'IRET and RET: a stack segment that is not present is #SS (SDM vol. 2)',
  },
  {
    image: 'gates', line: /beyond the limit: /, from: /#GP\(0\) eip=\S+ cs=5b fs=0 gs=0 esp=8000 ss=43/, to: '#GP(0) +0',
    why: 'the new instruction pointer is checked against the limit before anything changes (SDM vol. 2); QEMU has no limit checks',
  },
  {
    image: 'gates', line: /beyond the limit, same ring: /, from: /#GP\(0\) eip=\S+ cs=58 esp\+c/, to: '#GP(0) +0',
    why: 'as above',
  },
  {
    image: 'gates', line: /^ring [123] gate dpl \d to conforming dpl\d call/, from: /^ring (\d)(.*): ok \+0 cs=6.*/, to: 'ring $1$2: ok +0 cs=6$1 esp-8',
    why: 'a call through a gate to a conforming segment keeps CPL and stack (SDM vol. 2, CALL); QEMU goes inward',
  },
  {
    image: 'gates', line: /^ring 0 .* code absent jmp|conforming absent jmp/, from: /#GP\(60\)/, to: '#NP(60)',
    why: 'JMP through a gate to a code segment that is not present is #NP, if its privilege would do (SDM vol. 2, JMP)',
  },
  {
    image: 'segments', line: /^(jmp|call) far ring/, from: /,/g, to: '.',
    why: 'loading CS marks the descriptor accessed (SDM vol. 3, 3.4.5.1); QEMU does not in far jumps and calls',
  },
  {
    image: 'segments', line: /^[03] ltr: ok/, from: /ok/, to: '#GP(0) +0',
    why: 'LTR of a null selector is #GP(0) (SDM vol. 2, LTR)',
  },
  {
    image: 'control', line: /^ring [123] 0 cr[15]: /, from: /#GP\(0\)/, to: '#UD',
    why: 'a control register that does not exist is #UD before privilege is asked: so does the real processor (vectors, group refused)',
  },
  {
    image: 'control', line: /^ring 0 20000011 cr0 back/, from: /ok .*/, to: '#GP(0) +3 edx=11',
    why: 'CR0.NW without CR0.CD is #GP(0) (SDM vol. 2, MOV CR)',
  },
  { image: 'control', line: /icebp: /, from: /#UD \+0/, to: '#DB +1', why: 'INT1 (F1) is a debug trap (SDM vol. 2, INT n)' },
  { image: 'control', line: /^ring 0 ffffffff dr6: /, from: /ecx=ffffffff/, to: 'ecx=ffffefff', why: 'DR6 bit 12 is always 0 (SDM vol. 3, 17.2.3)' },
  { image: 'control', line: /^ring 0 d500 dr7: /, from: /ecx=d500/, to: 'ecx=500', why: 'DR7 bits 12, 14 and 15 are always 0 (SDM vol. 3, 17.2.4)' },
  {
    image: 'tasks', line: /^(tss in the ldt|gate to c jmp): /, from: /#TS\(c\)/, to: '#GP(c)',
    why: 'a task-state segment can only be in the GDT: #GP of the selector (SDM vol. 2, CALL and JMP)',
  },
  {
    image: 'tasks', line: /jmp, debug trap: /, from: /: ok/, to: ': #DB +0',
    why: 'the T bit of a new task traps before its first instruction (SDM vol. 3, 17.3.1.5); QEMU does not have it',
  },
  { image: 'tasks', line: /^dr6 ffff0ff0/, from: /ffff0ff0/, to: 'ffff8ff0', why: 'as above: DR6.BT' },
  {
    image: 'tasks', line: /^(cs|ss|ds|es|fs|gs|ldt) .*#/, from: / at \+[0-9a-f]+/, to: ' at +0',
    why: 'what the new task holds faults in the new task, whose EIP is loaded by then (SDM vol. 3, 7.3); QEMU saves the jump\'s own',
  },
  { image: 'tasks', line: /^ss absent data /, from: /#11/, to: '#12', why: 'a stack segment that is not present is #SS (SDM vol. 3, table 7-1)' },
  {
    image: 'tasks', line: /^sysenter, msr 3: /, from: /: .*/, to: ': #GP(0) +0',
    why: 'SYSENTER refuses an MSR whose selector is null, whatever its RPL (SDM vol. 2, SYSENTER)',
  },
  {
    image: 'breakpoints', line: /rf=0 .*: #(UD|DE|GP)/, from: /rf=0/, to: 'rf=1',
    why: 'a fault has RF set in the flags that its handler finds (SDM vol. 3, 18.3.1.1); QEMU learned it later',
  },
  {
    image: 'breakpoints', line: /repeated, rf: /, from: / edi\+1 .*/, to: ' edi+4 esi+4 dr6=0 rf=0 repeated, rf: ok ecx=0',
    why: 'RF holds until a repeated instruction has come to its end (SDM vol. 3, 18.3.1.1)',
  },
  {
    image: 'breakpoints', line: / after mov ss: #DB \+2/, from: /dr6=1 (.*): .*/, to: (match) => match.replace('dr6=1', 'dr6=0').replace('#DB +2', 'ok'),
    why: 'a breakpoint on the instruction after a load of SS is not taken (SDM vol. 3, 6.8.3)',
  },
  {
    image: 'breakpoints', line: /edi\+4 .* rep movsb: #DB \+0/, from: /#DB \+0/, to: '#DB +2',
    why: 'after its last iteration a repeated instruction has come to its end (SDM vol. 2, REP); QEMU looks at the count once more',
  },
  {
    image: 'breakpoints', line: /mov ss from there: /, from: /#DB \+2/, to: '#DB +3',
    why: 'a data breakpoint that a load of SS hits waits for the end of the next instruction (SDM vol. 3, 6.8.3)',
  },
  { image: 'breakpoints', line: /store32, three: /, from: /dr6=9/, to: 'dr6=7', why: 'DR6 tells every breakpoint that was hit (SDM vol. 3, 18.2.3); QEMU tells the first, and one that is not armed' },
  {
    image: 'breakpoints', line: /store32, single step: /, from: /#DB eip=.*/, to: '#DB +2',
    why: 'a breakpoint and a single step after one instruction are one #DB (SDM vol. 3, 6.9); QEMU steps once more',
  },
  ...['paging', 'paging-pae'].map((image): Correction => ({
    image, line: /^second page /, from: /rmw=[45]/, to: (match) => (match.endsWith('4') ? 'rmw=6' : 'rmw=7'),
    why: 'the read of a read-modify-write faults as a write: so does the real processor (vectors, group alu)',
  })),
  {
    image: 'paging-pae', line: /^nxe \d|^large, bit/, from: /=(8|a|c|e|18|1c)\b/g, to: plusOne,
    why: 'a reserved bit faults only in a present entry: the error code has P set (SDM vol. 3, 4.7); QEMU leaves it out',
  },
  {
    image: 'paging-pae', line: /^pointer bits (03|05|021|041|081|0101|1000001|400000001|800000001) /, from: /ok/, to: '#GP(0) +0',
    why: 'reserved bits in a present page-directory-pointer entry refuse the load of CR3 (SDM vol. 3, 4.4.1)',
  },
  {
    image: 'paging-pae', line: /^ absent in memory, held/, from: /=4/, to: '=.',
    why: 'the four pointers are held in the processor from the load of CR3 on (SDM vol. 3, 4.4.1)',
  },
];
