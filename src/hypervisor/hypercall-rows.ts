// The index of the hypercall table: each family's rows, joined. A new family is one line here.
import { joinRows } from './dispatch.ts';
import { descriptorRows } from './hypercalls/descriptors.ts';
import { EVENT_CHANNEL_ROWS } from './hypercalls/event-channel.ts';
import { GRANT_TABLE_ROWS } from './hypercalls/grant-table.ts';
import { memoryRows } from './hypercalls/memory.ts';
import { MISC_ROWS } from './hypercalls/misc.ts';
import { mmuRows } from './hypercalls/mmu.ts';
import { mmuextRows } from './hypercalls/mmuext.ts';
import { multicallRows } from './hypercalls/multicall.ts';
import { SCHED_ROWS } from './hypercalls/sched.ts';
import { TRAP_ROWS } from './hypercalls/traps.ts';
import { VCPU_ROWS } from './hypercalls/vcpu.ts';
import { VERSION_ROWS } from './hypercalls/version.ts';
import { vmAssistRows } from './hypercalls/vm-assist.ts';

export const hypercallRows = joinRows(
  mmuRows, mmuextRows, descriptorRows, memoryRows, multicallRows, vmAssistRows,
  EVENT_CHANNEL_ROWS, GRANT_TABLE_ROWS, SCHED_ROWS, VCPU_ROWS, VERSION_ROWS, TRAP_ROWS, MISC_ROWS,
);
