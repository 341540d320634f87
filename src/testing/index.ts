// rexen/testing: for your own test suites. Needs fast-check beside it (an optional peer dependency).
//
//   fc.assert(fc.property(programs(), (program) => play(program) === undefined))     random hostile guests
//   play({ shape: 'pv64', preempt: 0, steps: [...] }, { afterStep })                 your own steps and laws
//   assertInvariants(world)                                                          all checkers, now
//   assertProperty('page-tables', { runs: 500, seed: 1 })                            a shipped property
//   assertGuestProperty({ runs: 100 })                                               the paravirt_ops guest on every back end
export { pageTableTrees, programs, shapes, type ProgramConstraints } from './arbitraries.ts';
export { Laws, ProgressMeter, type Broken } from './laws.ts';
export { IMPOSSIBLE, MUTANTS, type Mutant } from './mutants.ts';
export { answerCode, assertInvariants, invariantProblems, play, Player, type Finding, type Judge, type PlayOptions, type TestWorld, type WorldRules } from './play.ts';
export { operationCount, parseProgram, programText, SHAPES, type Program, type Step } from './program.ts';
export { runProperty, watchProperty, type PropertyRun, type PropertyWatch, type WatchedRun } from './property-run.ts';
export { assertProperty, checkProperty, failureText, PROPERTIES, propertyByName, propertyRun, type CheckPropertyOptions, type Property, type PropertyResult } from './properties.ts';
export { smallest } from './shrink.ts';
export { PINNING_BUGS, type PinningBug } from '../guest/xen/state.ts';
// The paravirt_ops guest: programs of processes, played on every back end (guest-play.ts).
export { expectedHistories } from './guest-model.ts';
export { GUEST_SETUPS, guestProblems, kernelOf, playGuest, type GuestRun, type GuestSetup } from './guest-play.ts';
export { guestPrograms } from './guest-programs.ts';
export { assertGuestProperty, checkGuestProperty, GUEST_PROPERTY, guestPropertyRun, pinningCosts, setupsWithBug, type GuestPropertyResult, type PinningCost } from './guest-properties.ts';
// Its drivers, under faults and a person's commands.
export { DRIVER_JUDGES, driverProblems, playDrivers, type DriverJudge, type DriverProgram, type DriverRun } from './driver-play.ts';
export { assertDriverProperty, checkDriverProperty, DRIVER_PROPERTIES, driverPrograms, driverPropertyByName, driverPropertyRun, type DriverProperty, type DriverPropertyResult } from './driver-properties.ts';
