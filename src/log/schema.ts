// The schema of a recording, as protobuf text: the packets by hand, the events from their rows.
// schemas/rexen.proto is this text (a test compares them); protobufjs parses the same text to
// encode and decode packets, so there is no generated code to keep in step.
import protobuf from 'protobufjs';
import { BODY_FIELD_OFFSET, BYTES_FIELD_NUMBER, EVENT_ROWS, type EventFieldType, type EventRow } from '../abi/events.ts';

/** Raised when older readers could no longer read what we write. */
export const FORMAT_VERSION = 1;
export const MAGIC = 'rexen recording';

const PROTO_TYPE: Record<EventFieldType, string> = { uint: 'uint64', sint: 'sint64', u64: 'uint64', s64: 'sint64' };
export const toSnake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
export const toPascal = (name: string): string => name.charAt(0).toUpperCase() + name.slice(1);

const PACKETS = `// The recording of a world. A file is one message Recording; decode it with
//   protoc --decode rexen.Recording schemas/rexen.proto < file
// Events are readable there if the file was written with --compress none, or rewritten by
// "rexen pack --compress none". Made from src/log/schema.ts and src/abi/events.ts; edit those.
syntax = "proto3";
package rexen;

// Packets in order: one Header, then Images, Chunks and StateDigests, then Index, then Trailer.
// Written front to back and never changed: a file cut at any byte is good up to its last whole
// packet. A file past 1 GiB goes on in FILE.001, FILE.002, ...: each is a Recording that opens with
// a Segment, and the bytes of all of them in a row are the whole Recording.
message Recording {
  repeated Packet packet = 1;
}

message Packet {
  oneof body {
    Header header = 1;
    Chunk chunk = 2;
    StateDigest state_digest = 3;
    Image image = 4;
    Index index = 5;
    Trailer trailer = 6;
    Segment segment = 7;
  }
  // Bytes of the whole packet in the file, with its tag and length: lets a reader walk backwards.
  // Always written, last but one.
  fixed32 size_bytes = 14;
  // CRC-32C of the packet's bytes in the file, from its tag to its size_bytes. Always written, last.
  fixed32 crc32c = 15;
}

message Header {
  // Always "rexen recording". With format_version the part of the format that never changes, and
  // so does the CRC of the header's packet.
  string magic = 1;
  // A reader refuses a recording whose version is above its own.
  uint32 format_version = 2;
  // Another revision of the engine warns, replays and verifies; it does not refuse.
  uint32 engine_revision = 3;
  World world = 4;
  // Remarks that are not part of what is recorded: not in the digest.
  repeated Option info = 5;
  // Kinds and fields of events that the writer knew; a reader that knows fewer may meet one that it
  // cannot read, and says so.
  uint32 event_vocabulary = 6;
}

// Everything that decides what happens, apart from inputs: the recording's digest covers these
// bytes as they stand.
message World {
  string scenario = 1;
  repeated Option options = 2;
  string seed = 3;
  repeated ImageRef images = 4;
  // Virtual nanoseconds per retired instruction, as a fraction; see Event.time_skew_ns.
  uint32 ns_per_insn_numerator = 5;
  uint32 ns_per_insn_denominator = 6;
  // The recording that this one branches from, and how many of its events the two share.
  bytes parent_digest = 7;
  uint64 parent_events = 8;
}

message Option {
  string name = 1;
  string value = 2;
}

message ImageRef {
  string name = 1;
  uint64 size_bytes = 2;
  bytes blake3 = 3;
}

// The bytes of an image that the header names, put in by "rexen pack".
message Image {
  bytes blake3 = 1;
  oneof payload {
    bytes raw = 2;
    bytes deflated = 3;
  }
}

message Chunk {
  // Must be the previous chunk's first_event + event_count; 0 in the first one. Every multiple of
  // 8192 is the first event of a chunk, so that two recordings can be compared chunk by chunk.
  uint64 first_event = 1;
  // Must be above 0.
  uint32 event_count = 2;
  // Virtual time and retired instructions before the first event: where the deltas begin.
  uint64 now_ns = 3;
  repeated VcpuBase vcpus = 4;
  // Where in the uncompressed bytes the events begin that a reader looks for: inputs, nameDefined,
  // domainCreated.
  repeated uint32 landmarks = 5;
  // Bytes of Events before compression.
  uint32 raw_bytes = 6;
  // BLAKE3 of the encoded Events of this and all chunks before, joined.
  bytes events_digest = 7;
  // Bytes of the columns before compression, if the payload is in columns.
  uint32 column_bytes = 8;
  // Must be last.
  oneof payload {
    // RFC 1951; inflates to columns, which src/log/columns.ts turns into the bytes of Events.
    bytes columns = 13;
    // RFC 1951, without a header; inflates to the bytes of a message Events.
    bytes deflated = 14;
    Events events = 15;
  }
}

message VcpuBase {
  uint32 domain = 1;
  uint32 vcpu = 2;
  uint64 retired = 3;
}

// What the state hashed to between two events; replay recomputes it. Not in the digest: engines
// with other layouts of state can have the same events.
message StateDigest {
  // So many events had happened. Must not be less than in the StateDigest before.
  uint64 at_event = 1;
  repeated Part parts = 2;
  message Part {
    string name = 1;
    bytes digest = 2;
  }
}

message Index {
  repeated ChunkPlace chunks = 1;
  repeated uint64 state_digest_offsets = 2;
  message ChunkPlace {
    uint64 offset = 1;
    uint64 first_event = 2;
    bytes events_digest = 3;
  }
}

message Trailer {
  uint64 events = 1;
  uint64 instructions = 2;
  uint64 virtual_time_ns = 3;
  string outcome = 4;
  string outcome_text = 5;
  // BLAKE3 of: the length of World as 8 bytes little-endian, World, the last events_digest.
  bytes digest = 6;
  // Where the packet of Index begins.
  uint64 index_offset = 7;
}

// Opens each file after the first of a recording in several files.
message Segment {
  // 1 in FILE.001.
  uint32 number = 1;
  // The CRC of the header's packet: segments of another recording are refused.
  fixed32 header_crc32c = 2;
}

message Events {
  repeated Event event = 1;
}

// Deltas are to the event before; everything else is absolute. A field that is 0 is left out.
message Event {
  uint32 domain = 1;
  uint32 vcpu = 2;
  // Instructions that this vCPU has retired since the last event that names it.
  uint64 insns_delta = 3;
  // Virtual time since the last event, beyond insns_delta * ns_per_insn (rounded down): waiting, and
  // what other vCPUs did.
  sint64 time_skew_ns = 4;
`;

const bodyLine = (row: EventRow): string => `    ${toPascal(row.name)} ${toSnake(row.name)} = ${row.kind + BODY_FIELD_OFFSET};\n`;

function bodyMessage(row: EventRow): string {
  const fields = row.fields.map((field, index) => {
    const values = typeof field.show === 'object' ? ` // ${field.show.of.map((name, value) => `${value} ${name}`).join(', ')}` : '';
    return `  ${PROTO_TYPE[field.type]} ${toSnake(field.name)} = ${index + 1};${values}\n`;
  });
  if (row.bytes !== undefined) fields.push(`  bytes ${toSnake(row.bytes.name)} = ${BYTES_FIELD_NUMBER};\n`);
  return `\n// ${row.role}: ${row.about}\nmessage ${toPascal(row.name)} {\n${fields.join('')}}\n`;
}

/** The text of schemas/rexen.proto. */
export function schemaText(): string {
  const rows: readonly EventRow[] = EVENT_ROWS;
  return `${PACKETS}  oneof body {\n${rows.map(bodyLine).join('')}  }\n}\n${rows.map(bodyMessage).join('')}`;
}

// What a reader needs of a header before it knows whether it can read the rest, and World as bytes,
// for the digest. Not part of the published schema: another view of the same bytes.
const HEADER_START = 'message HeaderStart { string magic = 1; uint32 format_version = 2; bytes world = 4; }';

let root: protobuf.Root | undefined;
/** The parsed message type; parsing happens at first use. */
export function messageType(name: string): protobuf.Type {
  root ??= protobuf.parse(schemaText() + HEADER_START).root;
  return root.lookupType(`rexen.${name}`);
}
