"""A Flower app for the tests of the deployment engine: rounds of one question to every node."""

from __future__ import annotations

import json
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedcore.flower import through_outage

server = ServerApp()
client = ClientApp()


def __getattr__(name: str) -> ClientApp:
    if name == "hostile":
        (Path.cwd() / "hostile-was-here").touch()
        return client
    raise AttributeError(name)


@client.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say who answers and how often it has in this run."""
    asked = message.content["c"]
    count = int(context.state["n"]["n"]) + 1 if "n" in context.state else 1  # type: ignore[index, arg-type]
    context.state["n"] = ConfigRecord({"n": count})
    if (victim := str(asked["die"])) and victim in str(context.node_config["participant"]):
        raise RuntimeError("as asked")
    answer = {"who": Path(str(context.node_config["participant"])).stem, "n": count}
    return Message(RecordDict({"r": ConfigRecord(answer)}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Ask every node `rounds` times; write each round's answers down as soon as it is over."""
    settings = context.run_config
    job = json.loads(Path(str(settings["job"])).read_text())
    folder = Path(str(settings["run-dir"]))
    if "raise" in job:
        raise RuntimeError(job["raise"])
    told: dict[str, Any] = {"status": "interrupted", "rounds": []}
    try:
        ask(grid, job, folder, told["rounds"])
        told["status"] = "finished"
    except BaseException:
        told["why"] = traceback.format_exc()
        raise
    finally:
        (folder / "result.json").write_text(json.dumps(told))


def ask(grid: Grid, job: dict[str, Any], folder: Path, rounds: list[list[Any]]) -> None:
    """The rounds."""
    nodes = list(through_outage(grid.get_node_ids))
    for number in range(job["rounds"]):
        content = RecordDict({"c": ConfigRecord({"die": job.get("die", "")})})
        asked = [Message(content, node, "query.hello", group_id=str(number), ttl=120.0) for node in nodes]
        waiting = set(through_outage(partial(grid.push_messages, asked)))
        answers: list[Any] = []
        deadline = time.monotonic() + 100.0
        while waiting and time.monotonic() < deadline:
            for reply in through_outage(partial(grid.pull_messages, waiting)):
                waiting.discard(reply.metadata.reply_to_message_id)
                answers.append("error" if reply.has_error() else dict(reply.content["r"].items()))
            time.sleep(0.1)
        rounds.append(answers)
        (folder / "progress.json").write_text(json.dumps(rounds))
