// What listens on a host's TCP ports: echo, discard, and a small web server for `wget`.
//
//   GET /            what there is          GET /NAME        a file of the network's spec
//   GET /bytes/N     N bytes in lines of 16, each of which says its offset (N up to 2^40)
import { bytesToText, textToBytes } from '../../base/byte-text.ts';
import type { TcpService, TcpStream } from './tcp.ts';

/** Something to send, made when there is room for it. */
interface Body {
  readonly length: number;
  bytes(from: number, count: number): Uint8Array;
}

const LINE_BYTES = 16;
const MOST_GENERATED = 2 ** 40;
const LONGEST_HEAD = 8192;

function textBody(text: string): Body {
  const bytes = new TextEncoder().encode(text);
  return { length: bytes.length, bytes: (from, count) => bytes.slice(from, from + count) };
}

/** Lines such as `000000000000016\n`. */
function generatedBody(length: number): Body {
  return {
    length,
    bytes: (from, count) => {
      const first = Math.floor(from / LINE_BYTES);
      let text = '';
      for (let line = first; line * LINE_BYTES < from + count; line++) text += `${String(line * LINE_BYTES).padStart(LINE_BYTES - 1, '0')}\n`;
      return textToBytes(text.slice(from - first * LINE_BYTES, from - first * LINE_BYTES + count));
    },
  };
}

/** Sends back what comes. */
export const ECHO: TcpService = {
  start: () => ({}),
  run: (stream) => {
    stream.put(stream.take(stream.room));
    if (stream.peerDone && stream.readable === 0) stream.close();
  },
};

export const DISCARD: TcpService = {
  start: () => ({}),
  run: (stream) => {
    stream.take(stream.readable);
    if (stream.peerDone) stream.close();
  },
};

interface WebState {
  /** The request as far as it has come. */
  head: string;
  /** Once it is whole: the path, what is left of the answer's head, and how far the body has gone. */
  path: string | null;
  answer: string;
  sent: number;
}

/** HTTP/1.0: one request, one answer, the end. */
export function webService(files: Readonly<Record<string, string>>): TcpService {
  const find = (path: string): Body | undefined => {
    if (path === '/') return textBody(['/bytes/N', ...Object.keys(files)].map((name) => `${name}\n`).join(''));
    const count = /^\/bytes\/([0-9]{1,13})$/.exec(path)?.[1];
    if (count !== undefined && Number(count) <= MOST_GENERATED) return generatedBody(Number(count));
    return Object.hasOwn(files, path) ? textBody(files[path] as string) : undefined;
  };
  return {
    start: (): WebState => ({ head: '', path: null, answer: '', sent: 0 }),
    run: (stream, state) => serveWeb(stream, state as WebState, find),
  };
}

function serveWeb(stream: TcpStream, state: WebState, find: (path: string) => Body | undefined): void {
  if (state.path === null) {
    state.head += bytesToText(stream.take(stream.readable));
    const isWhole = /\r?\n\r?\n/.test(state.head);
    if (!isWhole && !stream.peerDone && state.head.length <= LONGEST_HEAD) return;
    begin(state, isWhole, find);
  }
  stream.take(stream.readable); // whatever else the client says
  if (state.answer.length > 0) {
    const part = state.answer.slice(0, stream.room);
    stream.put(textToBytes(part));
    state.answer = state.answer.slice(part.length);
  }
  const body = state.answer === '' ? find(state.path as string) : undefined;
  if (body !== undefined) {
    const count = Math.min(stream.room, body.length - state.sent);
    if (count > 0) stream.put(body.bytes(state.sent, count));
    state.sent += count;
  }
  if (state.answer === '' && (body === undefined || state.sent === body.length)) stream.close();
}

/** `path` is '' when no body follows. */
function begin(state: WebState, isWhole: boolean, find: (path: string) => Body | undefined): void {
  const request = /^(\S+) (\S+)(?: HTTP\/[0-9.]+)?\r?\n/.exec(state.head);
  const [, method = '', target = ''] = request ?? [];
  const path = target.replace(/^http:\/\/[^/]*/, '').split('?')[0] as string;
  const body = find(path);
  const status = !isWhole || request === null ? '400 Bad Request' : method !== 'GET' && method !== 'HEAD' ? '501 Not Implemented' : body === undefined ? '404 Not Found' : '200 OK';
  const found = status === '200 OK' ? body : undefined;
  state.head = '';
  state.path = found !== undefined && method === 'GET' ? path : '';
  state.answer = `HTTP/1.0 ${status}\r\nContent-Type: text/plain\r\nContent-Length: ${found?.length ?? 0}\r\nConnection: close\r\n\r\n`;
}
