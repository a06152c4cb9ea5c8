"""TensorBoard's own server over a folder of event files, asked without a socket."""

import json
from pathlib import Path
from typing import Any

from tensorboard import default, program
from tensorboard.backend.application import TensorBoardWSGIApp
from tensorboard.backend.event_processing.data_ingester import LocalDataIngester
from werkzeug.test import Client


class TensorBoardApp:
    """The pages that TensorBoard shows of a folder at the time when this is built."""

    def __init__(self, folder: Path) -> None:
        board = program.TensorBoard(default.get_static_plugins())
        board.configure(
            logdir=str(folder), reload_interval=0, reload_task="blocking", load_fast="false"
        )
        ingester = LocalDataIngester(board.flags)
        ingester.start()
        self._client = Client(
            TensorBoardWSGIApp(
                board.flags,
                board.plugin_loaders,
                ingester.data_provider,
                deprecated_multiplexer=ingester.deprecated_multiplexer,
            )
        )

    def get(self, route: str, **query: str) -> Any:
        """Returns the JSON that `/data/plugin/ROUTE` answers."""
        return json.loads(self.text(route, **query))

    def text(self, route: str, **query: str) -> str:
        """Returns the text that `/data/plugin/ROUTE` answers."""
        return self._checked(self._client.get(f"/data/plugin/{route}", query_string=query))

    def post(self, route: str, content: dict[str, Any]) -> Any:
        """Returns the JSON that `/data/plugin/ROUTE` answers to `content`."""
        return json.loads(self._checked(self._client.post(f"/data/plugin/{route}", json=content)))

    def hparams(
        self, *statuses: str, also: str = "seed"
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The experiment of the HParams page, and the rows whose runs have one of these statuses,
        each with its `metrics` by tag, and with the setting `also`, listed or not."""
        experiment = self.post("hparams/experiment", {"experimentName": ""})
        names = {also, *(info["name"] for info in experiment["hparamInfos"])}
        columns = [{"hparam": name, "includeInResult": True} for name in names]
        asked = {"sliceSize": 100, "allowedStatuses": statuses, "colParams": columns}
        rows = self.post("hparams/session_groups", asked)["sessionGroups"]
        for row in rows:
            row["metrics"] = {v["name"]["tag"]: v["value"] for v in row["metricValues"]}
        return experiment, rows

    def _checked(self, response: Any) -> str:
        text = response.get_data(as_text=True)
        assert response.status_code == 200, text
        return text
