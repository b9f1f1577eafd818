/**
 * The part that runs in the browser's audio thread: it hands the microphone's sound over as 16-bit samples.
 *
 * A file of its own, since an AudioWorklet loads one. Invariant: samples leave in their order, `BLOCK_S` in a message.
 */
declare const sampleRate: number;
declare class AudioWorkletProcessor {
  readonly port: MessagePort;
}
declare function registerProcessor(name: string, processor: new () => AudioWorkletProcessor): void;

const BLOCK_S = 0.05;

class Capture extends AudioWorkletProcessor {
  private block = new Int16Array(Math.round(sampleRate * BLOCK_S));
  private filled = 0;

  /** Take one channel of 128 samples in [-1, 1]; true keeps the processor alive. */
  process(inputs: Float32Array[][]): boolean {
    for (const value of inputs[0]?.[0] ?? []) {
      this.block[this.filled++] = Math.round(32767 * Math.max(-1, Math.min(1, value)));
      if (this.filled === this.block.length) this.send();
    }
    return true;
  }

  private send(): void {
    const { buffer, length } = this.block;
    this.port.postMessage(buffer, [buffer]);
    this.block = new Int16Array(length);
    this.filled = 0;
  }
}

registerProcessor("capture", Capture);

export {};
