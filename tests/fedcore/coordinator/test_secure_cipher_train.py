"""A train job whose masks are of ChaCha20: the result of the same job without protection, and what is told of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from tests.sites import Study, blobs, write_job, write_site


def test_a_run_with_masks_of_chacha20_gives_the_result_of_the_same_run_without(tmp_path: Path) -> None:
    study = Study(tmp_path, sites=3)
    for i, name in enumerate(study.names):
        write_site(study.folder, name, blobs(40 + 10 * i, i))
    study.job = write_job(study.folder, rounds=2)
    plain = study.run(folder=tmp_path / "plain")
    asked = "{secure_aggregation: {protocol: secagg+, cipher: chacha20}}"
    study.job = write_job(study.folder, rounds=2, protection=asked)
    hidden = study.run(folder=tmp_path / "hidden")
    one, other = load_file(plain.model), load_file(hidden.model)
    for name in one:
        np.testing.assert_allclose(other[name], one[name], rtol=0, atol=2e-5)
    assert '"cipher": "chacha20"' in (tmp_path / "hidden" / "result.json").read_text()
