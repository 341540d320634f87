// Bytes as text of one character each: short in JSON, exact, and how xenstored holds what it is told.

export function bytesToText(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
}
export const textToBytes = (text: string): Uint8Array => Uint8Array.from(text, (char) => char.charCodeAt(0));
