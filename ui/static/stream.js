// The framework ends the stream of a page's events once none is under way, and opens it anew with the next one. An event that
// is taken on while the news of that end is on its way is never heard of: its button does nothing until another is pressed, or
// all events that wait are told that the connection broke. So the end is told to the page only when nothing it asked for is
// still to come, and that something was taken on is told only when the page has heard of the end.
{
  const plain = window.fetch.bind(window);
  const awaited = new Set(), early = new Set();  // events without an end yet; ends of events not yet known to be taken on
  let ending = Promise.resolve();  // until the page has let go of the stream whose end it was told

  const read = text => {
    const data = text.startsWith('data: ') && /"msg":"(close_stream|process_completed)"/.test(text) ? JSON.parse(text.slice(6)) : {};
    if (data.msg === 'process_completed' && data.event_id && !awaited.delete(data.event_id)) early.add(data.event_id);
    return data.msg;
  };

  // All messages of one answer of the server, without the one that ends it; whether that one came.
  const pass = async (answer, give) => {
    const coming = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let held = '', ended = false; ;) {
      const { value, done } = await coming.read();
      if (done) { if (held) give(held); return ended; }
      const parts = (held + value).split('\n\n');
      held = parts.pop();
      for (const part of parts) {
        if (read(part) === 'close_stream') ended = true;
        else give(part + '\n\n');
      }
    }
  };

  const opened = async asked => {
    const answer = await plain(asked);
    if (!answer.ok || !answer.body) throw answer;
    return answer;
  };

  const let_go = ({ signal }) => new Promise(gone => signal.aborted ? gone() : signal.addEventListener('abort', gone));

  const stream = async asked => {
    const coder = new TextEncoder(), first = await opened(asked);
    const body = new ReadableStream({ async start(to) {
      const give = text => to.enqueue(coder.encode(text));
      try {
        for (let answer = first; await pass(answer, give) && awaited.size; ) answer = await opened(asked);
        ending = let_go(asked);
        give('data: {"msg":"close_stream"}\n\n');
        await ending;
      } catch (error) {
        awaited.clear();  // the framework tells each of them that its connection broke, or has left itself
        if (!asked.signal.aborted) return to.error(error);
      }
      to.close();
    } });
    return new Response(body, { status: first.status, headers: first.headers });
  };

  window.fetch = async (asked, options) => {
    const { pathname } = new URL(asked.url ?? asked, location.href);
    if (asked instanceof Request && pathname.endsWith('/queue/data')) return stream(asked);
    const answer = await plain(asked, options);
    if (!answer.ok || !pathname.endsWith('/queue/join')) return answer;
    const { event_id: taken } = await answer.clone().json();
    if (!early.delete(taken)) awaited.add(taken);
    await ending;
    return answer;
  };
}
