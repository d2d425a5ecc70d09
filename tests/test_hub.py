"""Models on the hub, which a folder stands in for."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import huggingface_hub
import pytest
import torch
from waves import QUIET, data, model

from fnodiff import Model, fit, sample
from fnodiff.hub import model_card, write_space
from fnodiff.report import invariance_report

SAID = {"licence": "mit", "description": "Random waves, by `fit(...)`."}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """HfApi and snapshot_download, with their own signatures, on a folder."""
    api = mock.create_autospec(huggingface_hub.HfApi, instance=True)
    made = []

    def upload_folder(*, repo_id, folder_path, commit_message):
        assert repo_id in made, "made before"
        shutil.copytree(folder_path, tmp_path / repo_id, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"hub/{repo_id}/commit/1")

    def download(repo_id, *, revision=None, allow_patterns=None):
        return str(tmp_path / repo_id)

    api.upload_folder.side_effect = upload_folder
    api.create_repo.side_effect = lambda repo_id, *, private, exist_ok: made.append(repo_id)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token=None: api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return tmp_path


def test_a_model_goes_up_with_its_table_and_comes_back(hub):
    trained = fit(model(), data(), 2, logging=QUIET)
    report = invariance_report(trained, [(8,), (16,)], samples=4)
    assert trained.push_to_hub("me/waves", report, **SAID) == "hub/me/waves/commit/1"
    assert {p.name for p in (hub / "me/waves").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    again = Model.from_pretrained("me/waves")
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in trained.state_dict().items())

    card = huggingface_hub.ModelCard.load(hub / "me/waves/README.md")
    assert str(report) in card.text and "8, 12, 16" in card.text and "Random waves" in card.text
    assert (card.data.license, card.data.library_name) == ("mit", "fnodiff")
    code = card.text.split("```python\n")[1].split("```")[0]
    names = {}
    exec(code, names)  # what the card shows runs, on twice the largest grid
    assert names["x"].shape == (8, 2, 32)
    torch.testing.assert_close(names["x"], sample(trained, (32,), range(8)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repo": "waves"}, "owner/name"),
        ({"measured": "\n"}, "expected measured, got nothing"),
        ({"licence": "", "description": " "}, "expected licence, description"),
    ],
)
def test_a_card_says_what_it_needs(hub, change, message):
    trained = model()
    trained.training_shapes = ((8,),)
    with pytest.raises(ValueError, match=message):
        trained.push_to_hub(**{"repo": "me/waves", "measured": "1.0", **SAID, **change})
    assert list(hub.iterdir()) == [], "nothing was made"


def test_an_untrained_model_has_no_card():
    with pytest.raises(ValueError, match="training_shapes"):
        model_card(model(), "me/waves", "1.0", **SAID)


def test_a_space_has_its_files_and_reads_its_model(tmp_path, monkeypatch):
    pages = []
    monkeypatch.setattr("fnodiff.page.serve", lambda model, name: pages.append((model, name)))
    monkeypatch.chdir(write_space(tmp_path / "space", trained := model(), licence="mit", title="Waves"))
    card = huggingface_hub.SpaceCard.load("README.md").data
    assert (card.title, card.sdk, card.app_file, card.license) == ("Waves", "gradio", "app.py", "mit")
    assert Path("requirements.txt").read_text().startswith("fnodiff[app]>=")
    exec(Path(card.app_file).read_text(), {})
    ((again, name),) = pages
    assert name == "Waves" and all(torch.equal(v, trained.state_dict()[k]) for k, v in again.state_dict().items())
    write_space(".", "me/waves", licence="mit")
    assert "from_pretrained('me/waves'), 'waves')" in Path("app.py").read_text()
    assert huggingface_hub.SpaceCard.load("README.md").data.models == ["me/waves"]
    with pytest.raises(ValueError, match="expected a licence"):
        write_space(".", "me/waves", licence="")
