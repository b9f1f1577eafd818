/**
 * The microphone: asked for, read as 16-bit samples of one channel, and closed.
 *
 * Knows no server. Invariant: once closed, the browser's sign of a recording is gone and no more sound comes.
 */
declare const WORKLET: string; // the file of `worklet.ts`, beside this one; `build.mjs` puts its name in

const RATE_HZ = 16_000; // what speech models read; a browser that gives another rate names it
const MOST_HZ = 48_000; // that the server takes

export type MicrophoneProblem = "insecure" | "denied" | "missing" | "failed";

/** The reason why there is no sound. */
export class MicrophoneError extends Error {
  constructor(
    readonly problem: MicrophoneProblem,
    message = "",
  ) {
    super(message);
  }
}

/** An open microphone. */
export class Microphone {
  private constructor(
    private readonly stream: MediaStream,
    private readonly context: AudioContext,
  ) {}

  get rateHz(): number {
    return this.context.sampleRate;
  }

  /** Ask for the microphone; `take` gets little-endian samples, `lost` is called if it is unplugged. Throws `MicrophoneError`. */
  static async open(take: (samples: ArrayBuffer) => void, lost: () => void): Promise<Microphone> {
    const stream = await permitted();
    try {
      const { context, source } = contextOf(stream);
      const opened = new Microphone(stream, context);
      await context.audioWorklet.addModule(new URL(WORKLET, import.meta.url));
      const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
      capture.port.onmessage = (event: MessageEvent<ArrayBuffer>) => take(event.data);
      source.connect(capture);
      await context.resume();
      for (const track of stream.getAudioTracks()) track.onended = lost;
      return opened;
    } catch (error) {
      for (const track of stream.getTracks()) track.stop();
      throw new MicrophoneError("failed", String(error));
    }
  }

  close(): void {
    for (const track of this.stream.getTracks()) {
      track.onended = null;
      track.stop();
    }
    if (this.context.state !== "closed") void this.context.close();
  }
}

async function permitted(): Promise<MediaStream> {
  const devices = navigator.mediaDevices as MediaDevices | undefined; // none where the page came over plain HTTP
  if (!devices?.getUserMedia || typeof AudioWorkletNode === "undefined") throw new MicrophoneError("insecure");
  try {
    return await devices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true } });
  } catch (error) {
    const name = error instanceof DOMException ? error.name : "";
    if (name === "NotAllowedError" || name === "SecurityError") throw new MicrophoneError("denied");
    if (name === "NotFoundError" || name === "OverconstrainedError") throw new MicrophoneError("missing");
    throw new MicrophoneError("failed", String(error));
  }
}

/** Return a context at the rate of speech models; Firefox takes the device's own alone. */
function contextOf(stream: MediaStream): { context: AudioContext; source: MediaStreamAudioSourceNode } {
  const low = new AudioContext({ sampleRate: RATE_HZ });
  try {
    return { context: low, source: low.createMediaStreamSource(stream) };
  } catch {
    void low.close();
  }
  const own = stream.getAudioTracks()[0]?.getSettings().sampleRate ?? MOST_HZ;
  const context = new AudioContext({ sampleRate: Math.min(own, MOST_HZ) });
  return { context, source: context.createMediaStreamSource(stream) };
}
