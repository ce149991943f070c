// A channel's history, newest first, over whatever gets through to the gateway.

const HISTORY_MOST = 300; // publications of one answer over WebSocket
const CUT_CHARACTERS = 40_000; // the gateway ends an answer at about 256 KiB, where a character is up to six bytes

/** { publications, epoch }: as many of the newest before `since` as `limit` says, where history holds so many. `token` is the channel's, if it has one. */
export async function readHistory(gateway, channel, { limit, since, token }) {
  const found = [];
  for (;;) {
    const wanted = limit - found.length;
    const { publications, epoch } = await readOnce(gateway, channel, { limit: wanted, since, token });
    found.push(...publications);
    const oldest = publications.at(-1)?.offset ?? 0;
    const isCut = publications.length >= HISTORY_MOST || JSON.stringify(publications).length >= CUT_CHARACTERS;
    if (oldest <= 1 || found.length >= limit || !isCut) return { publications: found, epoch };
    since = { epoch, offset: oldest };
  }
}

/** An event stream only receives, so there history is read over plain HTTP, which needs the subscription's token. */
function readOnce(gateway, channel, { limit, since, token }) {
  const query = new URLSearchParams({ channel, limit, reverse: 1 });
  if (since) query.set("since", `${since.epoch}:${since.offset}`);
  if (token) query.set("subscription_token", token);
  const overHttp = () => gateway._fetch(`history?${query}`);
  if (gateway.transport === "sse") return overHttp();
  const read = gateway.history(channel, { limit, since, reverse: true });
  return read.catch((error) => (error.code === "sse" ? overHttp() : Promise.reject(error))); // it waited for a connection
}
