/**
 * SHA-256 (FIPS 180-4), by the browser or Node where they offer it. A page without a secure context
 * (plain http from another host) has no `crypto.subtle`; there, and in Node 18, plain JavaScript
 * computes it, at about 100 MB/s.
 */

/**
 * @param {Uint8Array} bytes
 * @param {SubtleCrypto | undefined} subtle
 * @returns {Promise<string>} 64 hexadecimal digits
 */
export async function sha256(bytes, subtle = globalThis.crypto?.subtle) {
  if (!subtle) return sha256Plain(bytes);
  const digest = await subtle.digest("SHA-256", /** @type {Uint8Array<ArrayBuffer>} */ (bytes));
  return hexadecimal(new Uint8Array(digest));
}

const FRACTION = 2 ** 32;

/** The first 64 primes, whose roots give the constants. */
const PRIMES = Array.from({ length: 310 }, (_, index) => index + 2).filter((number) => {
  for (let factor = 2; factor * factor <= number; factor++) if (number % factor === 0) return false;
  return true;
});

/** @param {number} root */
const fraction = (root) => ((root % 1) * FRACTION) | 0;

const START = PRIMES.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)));
const ROUNDS = PRIMES.slice(0, 64).map((prime) => fraction(Math.cbrt(prime)));

/**
 * @param {Uint8Array} bytes
 * @returns {string} 64 hexadecimal digits
 */
export function sha256Plain(bytes) {
  const state = Int32Array.from(START);
  const whole = bytes.length - (bytes.length % 64);
  for (let position = 0; position < whole; position += 64) {
    compress(state, new DataView(bytes.buffer, bytes.byteOffset + position, 64));
  }
  // The rest, a one bit, zeros, and the length in bits.
  const rest = bytes.length - whole;
  const tail = new Uint8Array(rest < 56 ? 64 : 128);
  tail.set(bytes.subarray(whole));
  tail[rest] = 0x80;
  const view = new DataView(tail.buffer);
  view.setUint32(tail.length - 8, Math.floor(bytes.length / 2 ** 29));
  view.setUint32(tail.length - 4, bytes.length * 8);
  for (let position = 0; position < tail.length; position += 64) {
    compress(state, new DataView(tail.buffer, position, 64));
  }
  const digest = new DataView(new ArrayBuffer(32));
  state.forEach((word, index) => digest.setInt32(4 * index, word));
  return hexadecimal(new Uint8Array(digest.buffer));
}

const schedule = new Int32Array(64);

/**
 * @param {Int32Array} state eight words, replaced
 * @param {DataView} block 64 bytes
 */
function compress(state, block) {
  for (let round = 0; round < 16; round++) schedule[round] = block.getInt32(4 * round);
  for (let round = 16; round < 64; round++) {
    const early = schedule[round - 15],
      late = schedule[round - 2];
    const sigma0 = rotated(early, 7) ^ rotated(early, 18) ^ (early >>> 3);
    const sigma1 = rotated(late, 17) ^ rotated(late, 19) ^ (late >>> 10);
    schedule[round] = (schedule[round - 16] + sigma0 + schedule[round - 7] + sigma1) | 0;
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let round = 0; round < 64; round++) {
    const sum1 = rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25);
    const one = (h + sum1 + ((e & f) ^ (~e & g)) + ROUNDS[round] + schedule[round]) | 0;
    const sum0 = rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22);
    const two = (sum0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
  }
  [a, b, c, d, e, f, g, h].forEach((word, index) => (state[index] += word));
}

/** @param {number} word @param {number} bits */
const rotated = (word, bits) => (word >>> bits) | (word << (32 - bits));

/** @param {Uint8Array} bytes */
const hexadecimal = (bytes) =>
  Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
