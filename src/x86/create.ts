// Makes a processor: the door for everybody outside this room.
export { createCpu } from './processor.ts';
