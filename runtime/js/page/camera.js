/** The camera: a still image as a file, like any other. */

/** @type {Record<string, string>} what a refusal means, by the name of the browser's error */
const REASONS = {
  NotAllowedError: "it was refused; allow it for this page in the browser's settings",
  NotFoundError: "there is none",
  NotReadableError: "another program uses it",
};

/** Show what the camera sees. @param {HTMLVideoElement} video */
export async function openCamera(video) {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment" },
    });
    await video.play();
  } catch (/** @type {any} */ error) {
    closeCamera(video);
    throw new Error(`camera: ${REASONS[error.name] ?? error.message}`);
  }
}

/** @param {HTMLVideoElement} video */
export function closeCamera(video) {
  const stream = /** @type {MediaStream | null} */ (video.srcObject);
  stream?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
}

let photos = 0;

/** A PNG, which keeps every pixel. @param {HTMLVideoElement} video */
export async function takePhoto(video) {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d")?.drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!blob) throw new Error("camera: it gives no image yet");
  return new File([blob], `camera ${++photos}.png`, { type: "image/png" });
}
