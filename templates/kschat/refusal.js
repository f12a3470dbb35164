// Whether a handshake failed because the server, or the address, is wrong. A browser gives no reason, and an outage
// looks the same; but a server that answers over HTTP is reachable.

/** Whether the address answers over HTTP; a browser may hide the response. */
async function isAnswering(url, timeout) {
  try {
    const given = { mode: "no-cors", cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(timeout) };
    const { status } = await fetch(url, given);
    return status < 500 && status !== 429;
  } catch {
    return false;
  }
}

/** `failure` is the event of the WebSocket; `wasOpen` tells whether this URL has worked before. */
export async function isRefusal(failure, { url, handshakeTimeout }, wasOpen) {
  const { message = "", error: cause } = failure ?? {};
  // The format of the package `ws`.
  const status = Number(/Unexpected server response: (\d+)/.exec(message)?.[1]);
  if (status) return status >= 400 && status < 500 && ![408, 425, 429].includes(status);
  if (cause?.code) return /^(EPROTO|ERR_SSL_)/.test(cause.code);
  const [own, other] = url.startsWith("wss:") ? ["https:", "http:"] : ["http:", "https:"];
  const answers = (scheme) => isAnswering(url.replace(/^wss?:/, scheme), handshakeTimeout);
  // Only under the other scheme: `ws` and `wss` were mixed up.
  return (await answers(own)) || (!wasOpen && answers(other));
}
