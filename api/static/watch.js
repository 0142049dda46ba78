// Follows a job by server-sent events; the browser reconnects by itself, and the last event has an ended status.
const ENDED = ["succeeded", "failed", "canceled"];

export function watch(url, onSnapshot, onEnd) {
  const source = new EventSource(url);
  source.addEventListener("job", (event) => {
    const snapshot = JSON.parse(event.data);
    onSnapshot(snapshot);
    if (ENDED.includes(snapshot.status)) { source.close(); onEnd(snapshot); }
  });
  addEventListener("pagehide", () => source.close(), { once: true });
}

export function timeLeft(seconds) {
  if (seconds == null || !isFinite(seconds)) return "–";
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${String(Math.round(seconds % 60)).padStart(2, "0")} s`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
