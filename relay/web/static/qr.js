// A QR code (ISO/IEC 18004) of a text: byte mode, error correction level M, versions 1 to 15, which
// is 412 bytes of UTF-8 at most.

import { svg } from "./dom.js";

const QUIET = 4; // Modules around it that stay white (section 9.1).
// Of level M, by version from 1 on: codewords of error correction in a block, and blocks (table 9).
const CORRECTION = [10, 16, 26, 18, 24, 16, 18, 22, 22, 26, 30, 22, 22, 24, 24];
const BLOCKS = [1, 1, 1, 2, 2, 4, 4, 4, 5, 5, 5, 8, 9, 9, 10];
// Where alignment patterns have their centres (annex E).
const ALIGNMENT = [
  [],
  [6, 18],
  [6, 22],
  [6, 26],
  [6, 30],
  [6, 34],
  [6, 22, 38],
  [6, 24, 42],
  [6, 26, 46],
  [6, 28, 50],
  [6, 30, 54],
  [6, 32, 58],
  [6, 34, 62],
  [6, 26, 46, 66],
  [6, 26, 48, 70],
];
const MASKS = [
  (row, column) => (row + column) % 2 === 0,
  (row) => row % 2 === 0,
  (_, column) => column % 3 === 0,
  (row, column) => (row + column) % 3 === 0,
  (row, column) => (Math.floor(row / 2) + Math.floor(column / 3)) % 2 === 0,
  (row, column) => ((row * column) % 2) + ((row * column) % 3) === 0,
  (row, column) => (((row * column) % 2) + ((row * column) % 3)) % 2 === 0,
  (row, column) => (((row + column) % 2) + ((row * column) % 3)) % 2 === 0,
];
// 1:1:3:1:1 with four light ones on a side, as a finder pattern looks (table 11).
const FINDER_LIKE = ["10111010000", "00001011101"];

/** The code as rows of booleans, true for dark, without the quiet zone.
 * Throws a RangeError where the text is too long. */
export function encodeQr(text) {
  const data = new TextEncoder().encode(text);
  for (let version = 1; version <= CORRECTION.length; version += 1) {
    const { modules, is_function } = drawFunctions(version);
    const free = is_function.flat().filter((taken) => !taken).length;
    const total = Math.floor(free / 8);
    const capacity = total - CORRECTION[version - 1] * BLOCKS[version - 1];
    const length_bits = version < 10 ? 8 : 16;
    if (4 + length_bits + 8 * data.length > 8 * capacity) continue;
    const codewords = interleave(fill(data, length_bits, capacity), version, total);
    drawCodewords(modules, is_function, codewords);
    return bestMasked(modules, is_function);
  }
  throw new RangeError(`${data.length} bytes are too many for a QR code`);
}

/** The code as an image of black on white in any theme, which scanners want. */
export function drawQr(text, label) {
  const rows = encodeQr(text);
  const size = rows.length + 2 * QUIET;
  let path = "";
  rows.forEach((row, y) => {
    row.forEach((is_dark, x) => {
      if (is_dark) path += `M${x + QUIET} ${y + QUIET}h1v1h-1z`;
    });
  });
  return svg(
    "svg",
    { class: "qr", viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": label },
    svg("rect", { width: size, height: size, fill: "#fff" }),
    svg("path", { d: path, fill: "#000", "shape-rendering": "crispEdges" }),
  );
}

/** Mode, length, data, terminator and padding as bytes (section 7.4). */
function fill(data, length_bits, capacity) {
  const bits = [];
  const push = (value, count) => {
    for (let bit = count - 1; bit >= 0; bit -= 1) bits.push((value >> bit) & 1);
  };
  push(0b0100, 4);
  push(data.length, length_bits);
  for (const byte of data) push(byte, 8);
  push(0, Math.min(4, 8 * capacity - bits.length));
  while (bits.length % 8) bits.push(0);
  const bytes = [];
  for (let at = 0; at < bits.length; at += 8) {
    bytes.push(Number.parseInt(bits.slice(at, at + 8).join(""), 2));
  }
  for (let pad = 0xec; bytes.length < capacity; pad ^= 0xec ^ 0x11) bytes.push(pad);
  return bytes;
}

/** Blocks with their error correction, dealt out in turn (section 7.6). */
function interleave(bytes, version, total) {
  const correction_length = CORRECTION[version - 1];
  const count = BLOCKS[version - 1];
  const short_length = Math.floor(total / count) - correction_length;
  const short_count = count - (total % count);
  const generator = makeGenerator(correction_length);
  const blocks = [];
  let at = 0;
  for (let index = 0; index < count; index += 1) {
    const length = short_length + (index < short_count ? 0 : 1);
    const block = bytes.slice(at, at + length);
    at += length;
    blocks.push({ block, correction: remainder(block, generator) });
  }
  const dealt = [];
  for (let index = 0; index <= short_length; index += 1) {
    for (const { block } of blocks) if (index < block.length) dealt.push(block[index]);
  }
  for (let index = 0; index < correction_length; index += 1) {
    for (const { correction } of blocks) dealt.push(correction[index]);
  }
  return dealt;
}

/** Multiplication in GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1. */
function multiply(a, b) {
  let product = 0;
  for (let bit = 7; bit >= 0; bit -= 1) {
    product = (product << 1) ^ (product >> 7 ? 0x11d : 0);
    if ((b >> bit) & 1) product ^= a;
  }
  return product;
}

/** Coefficients of (x - 1)(x - 2)(x - 4)..., without the leading one (annex A). */
function makeGenerator(degree) {
  let polynomial = [1];
  let root = 1;
  for (let index = 0; index < degree; index += 1) {
    const next = [...polynomial, 0];
    polynomial.forEach((value, at) => {
      next[at + 1] ^= multiply(value, root);
    });
    polynomial = next;
    root = multiply(root, 2);
  }
  return polynomial.slice(1);
}

function remainder(data, generator) {
  const rest = Array(generator.length).fill(0);
  for (const byte of data) {
    const factor = byte ^ rest.shift();
    rest.push(0);
    generator.forEach((value, at) => {
      rest[at] ^= multiply(value, factor);
    });
  }
  return rest;
}

/** All that is the same whatever the text (section 6.3), and which modules that are. */
function drawFunctions(version) {
  const size = 17 + 4 * version;
  const square = () => Array.from({ length: size }, () => Array(size).fill(false));
  const modules = square();
  const is_function = square();
  const set = (row, column, is_dark) => {
    if (row < 0 || column < 0 || row >= size || column >= size) return;
    modules[row][column] = is_dark;
    is_function[row][column] = true;
  };
  const rings = (row, column, radius, dark) => {
    for (let y = -radius; y <= radius; y += 1) {
      for (let x = -radius; x <= radius; x += 1) {
        set(row + y, column + x, dark.includes(Math.max(Math.abs(x), Math.abs(y))));
      }
    }
  };
  for (let at = 0; at < size; at += 1) {
    set(6, at, at % 2 === 0);
    set(at, 6, at % 2 === 0);
  }
  const centres = ALIGNMENT[version - 1];
  const last = size - 7;
  for (const row of centres) {
    for (const column of centres) {
      const is_finder =
        (row === 6 && (column === 6 || column === last)) || (row === last && column === 6);
      if (!is_finder) rings(row, column, 2, [0, 2]);
    }
  }
  for (const [row, column] of [
    [3, 3],
    [3, size - 4],
    [size - 4, 3],
  ]) {
    rings(row, column, 4, [0, 1, 3]);
  }
  drawFormat(modules, 0, (row, column) => {
    is_function[row][column] = true;
  });
  if (version >= 7) {
    // The version itself, twice (section 7.10).
    const bits = withBch(version, 12, 0x1f25);
    for (let index = 0; index < 18; index += 1) {
      const is_dark = Boolean((bits >> index) & 1);
      const [far, near] = [size - 11 + (index % 3), Math.floor(index / 3)];
      set(near, far, is_dark);
      set(far, near, is_dark);
    }
  }
  return { modules, is_function };
}

/** Level and mask, twice (section 7.9). */
function drawFormat(modules, mask, touched = () => {}) {
  const size = modules.length;
  const bits = withBch(mask, 10, 0x537) ^ 0x5412; // Level M is 00.
  for (let index = 0; index < 15; index += 1) {
    const is_dark = Boolean((bits >> index) & 1);
    let down = size - 15 + index;
    if (index < 6) down = index;
    else if (index < 8) down = index + 1;
    let across = 14 - index;
    if (index < 8) across = size - 1 - index;
    else if (index === 8) across = 7;
    for (const [row, column] of [
      [down, 8],
      [8, across],
    ]) {
      modules[row][column] = is_dark;
      touched(row, column);
    }
  }
  modules[size - 8][8] = true;
  touched(size - 8, 8);
}

/** `value` followed by the `degree` bits that a BCH code adds to it. */
function withBch(value, degree, generator) {
  let rest = value << degree;
  for (let bit = 31; bit >= degree; bit -= 1) {
    if ((rest >>> bit) & 1) rest ^= generator << (bit - degree);
  }
  return (value << degree) | rest;
}

/** Two columns at a time from the right, up and down in turn (section 7.7.3). */
function drawCodewords(modules, is_function, codewords) {
  const size = modules.length;
  let at = 0;
  let is_upward = true;
  for (let right = size - 1; right >= 1; right -= 2) {
    if (right === 6) right = 5;
    for (let step = 0; step < size; step += 1) {
      const row = is_upward ? size - 1 - step : step;
      for (const column of [right, right - 1]) {
        if (is_function[row][column]) continue;
        if (at < 8 * codewords.length) {
          modules[row][column] = Boolean((codewords[at >> 3] >> (7 - (at & 7))) & 1);
        }
        at += 1;
      }
    }
    is_upward = !is_upward;
  }
}

function bestMasked(modules, is_function) {
  let best = null;
  let least = Number.POSITIVE_INFINITY;
  MASKS.forEach((inverts, mask) => {
    const masked = modules.map((line, row) =>
      line.map(
        (is_dark, column) => is_dark !== (!is_function[row][column] && inverts(row, column)),
      ),
    );
    drawFormat(masked, mask);
    const found = penalty(masked);
    if (found < least) {
      least = found;
      best = masked;
    }
  });
  return best;
}

/** How hard it is to read (section 7.8.3). */
function penalty(modules) {
  const size = modules.length;
  const lines = [...modules, ...modules.map((_, column) => modules.map((row) => row[column]))].map(
    (line) => line.map(Number).join(""),
  );
  let sum = 0;
  for (const line of lines) {
    for (const [run] of line.matchAll(/0{5,}|1{5,}/g)) sum += run.length - 2;
    for (const pattern of FINDER_LIKE) {
      for (let at = line.indexOf(pattern); at >= 0; at = line.indexOf(pattern, at + 1)) sum += 40;
    }
  }
  let dark = 0;
  for (let row = 0; row < size; row += 1) {
    for (let column = 0; column < size; column += 1) {
      const here = modules[row][column];
      dark += here;
      if (
        row &&
        column &&
        here === modules[row - 1][column] &&
        here === modules[row][column - 1] &&
        here === modules[row - 1][column - 1]
      )
        sum += 3;
    }
  }
  return sum + 10 * Math.floor(Math.abs((20 * dark) / (size * size) - 10));
}
