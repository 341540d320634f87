// The index of the hypercall table: each family's rows, joined. A new family is one line here.
import { joinRows } from './dispatch.ts';
import { descriptorRows } from './hypercalls/descriptors.ts';
import { memoryRows } from './hypercalls/memory.ts';
import { mmuRows } from './hypercalls/mmu.ts';
import { mmuextRows } from './hypercalls/mmuext.ts';
import { multicallRows } from './hypercalls/multicall.ts';
import { vmAssistRows } from './hypercalls/vm-assist.ts';

export const hypercallRows = joinRows(mmuRows, mmuextRows, descriptorRows, memoryRows, multicallRows, vmAssistRows);
