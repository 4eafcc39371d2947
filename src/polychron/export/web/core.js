"use strict";

/* xoshiro128++ of Blackman and Vigna, seeded as polychron's runtime seeds it. */
class Random {
  constructor(seed) {
    this.s = Uint32Array.of(seed, 0, 0x9e3779b9, 0x243f6a88);
    for (let n = 0; n < 16; ++n) this.next();
  }

  next() {
    const s = this.s;
    const rotated = (word, n) => (word << n) | (word >>> (32 - n));
    const result = (rotated(s[0] + s[3], 7) + s[0]) >>> 0;
    const shifted = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotated(s[3], 11);
    return result;
  }

  /* A number of [0, limit), each as likely. */
  below(limit) {
    let mask = limit - 1;
    for (let k = 1; k < 32; k <<= 1) mask |= mask >>> k;
    for (;;) {
      const number = (this.next() & mask) >>> 0;
      if (number < limit) return number;
    }
  }
}

/* Weights of 22 bits by the distance from the highest logit, in units: what the runtime's table holds. */
function weightTable(unit, temperature) {
  const ONE = 2 ** 22, ENTRIES = 8192, scale = unit / temperature;
  const nUnits = Math.log(2 * ONE) / scale;
  let shift = 0;
  while (nUnits > ENTRIES * 2 ** shift && shift < 31) ++shift;
  const weight = [];
  for (let d = 0; ; ++d) {
    const w = Math.round(ONE * Math.exp(-d * 2 ** shift * scale));
    if (w === 0 || weight.length === ENTRIES) return { weight, shift };
    weight.push(w);
  }
}

/* A text in the making: bytes in, bytes out. */
class Model {
  constructor(exports, about) {
    this.wasm = exports;
    this.about = about;
    this.bytes = about.bytes;
  }

  /* The tables take their place behind the program's own memory. */
  static async load(program, tables, about) {
    const { instance } = await WebAssembly.instantiate(program, {});
    const wasm = instance.exports;
    const place = (wasm.__heap_base.value + 15) & ~15;
    const lacking = place + tables.length - wasm.memory.buffer.byteLength;
    if (lacking > 0) wasm.memory.grow(Math.ceil(lacking / 65536));
    new Uint8Array(wasm.memory.buffer).set(tables, place);
    const refused = wasm.open(place, tables.length);
    if (refused) throw new Error("the page is damaged: its tables were refused with " + refused);
    return new Model(wasm, about);
  }

  begin(prompt, temperature, topP, seed) {
    this.wasm.reset();
    this.random = new Random(seed);
    this.setTemperature(temperature);
    this.setTopP(topP);
    for (const byte of prompt.length ? prompt : [this.about.start]) this.wasm.read(byte);
  }

  setTemperature(temperature) {
    this.temperature = temperature;
    this.table = temperature > 0 ? weightTable(2 ** -this.about.logitBits, temperature) : null;
  }

  /* What it leaves out counts in 65,536ths, as in the runtime. */
  setTopP(topP) {
    this.leftOut = Math.min(Math.round((1 - topP) * 65536), 65535);
  }

  /* The next byte, which is read, too. */
  next() {
    const n = this.bytes.length;
    const logit = new Int32Array(this.wasm.memory.buffer, this.wasm.logits(), n);
    let best = 0;
    for (let k = 1; k < n; ++k) if (logit[k] > logit[best]) best = k;
    const chosen = this.table === null ? best : this.draw(logit, logit[best]);
    const byte = this.bytes[chosen];
    this.wasm.read(byte);
    return byte;
  }

  draw(logit, highest) {
    const { weight, shift } = this.table, n = this.bytes.length;
    const share = (k) => weight[(highest - logit[k]) >>> shift] || 0;
    let total = 0;
    for (let k = 0; k < n; ++k) total += share(k);
    const leftOut = Math.floor((total * this.leftOut) / 65536);
    for (;;) {
      let left = this.random.below(total), k = 0;
      for (; left >= share(k); ++k) left -= share(k);
      const own = share(k);
      let behind = 0; /* weights in descending order, from this one on */
      for (let j = 0; j < n; ++j) if (share(j) < own || (share(j) === own && j >= k)) behind += share(j);
      if (behind > leftOut) return k;
    }
  }
}
