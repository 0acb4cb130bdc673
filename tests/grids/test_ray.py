"""The grid on Ray: the same results, workers that die, nothing needed of a node but embedcal."""

from __future__ import annotations

import builtins
import importlib.util
import os
import pickle
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from grids_for_tests import count, outcome, run_grid, start, times_done, until

from embedcal.cache import open_cache
from embedcal.environments import FOLDER
from embedcal.grids import grid, load
from embedcal.grids.engines.cluster import LOCAL
from embedcal.grids.engines.parcels import pack, unpack
from embedcal.grids.engines.ray import Order, _environments, known_of, perform
from embedcal.grids.jobs import Site, plan, stages
from embedcal.grids.settings import Setting, parse
from embedcal.methods import find
from embedcal.runs import load_run
from embedcal.scored import count as scored
from embedcal.sharing import gather
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench

if importlib.util.find_spec("ray") is None:  # not imported here: it reads its variables then
    pytest.skip("needs ray", allow_module_level=True)
find("erm")  # a file that imports it is taken to define it, where it comes first
SLOW = ["erm:lr=1e-3,1e-2:epochs=40:batch_size=8", "jtt:epochs=2:stage_epochs=1"]


@pytest.fixture(autouse=True)
def _home_of_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that imports Ray before embedcal does has Ray's own token, in the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))


# What a node does, here in this process.


@pytest.fixture
def site(made: Path, tmp_path: Path) -> Site:
    return Site(
        cache=made,
        attributes=("place",),
        folder=tmp_path / "g",
        device="cpu",
        select="val.worst_group",
    )


def sent(value):
    """As another process has it: through pickle, arrays that cannot be written to."""
    found = pickle.loads(pickle.dumps(value))
    return found


def shared(on, levels=("embedding",)):
    found = gather(on, levels)
    for arrays in found.values():
        for array in arrays.values():
            array.setflags(write=False)
    return found


def test_a_node_needs_neither_the_cache_nor_the_folder(photos, tmp_path, monkeypatch) -> None:
    """A run with text, projection and a stage, done from values alone, is what is done here."""
    specs = ["cfr:calibration=erm:stage_epochs=1:epochs=1:neg=rns"]
    calm = grid(specs, photos, out=tmp_path / "calm", seeds=1, engine="sequential")
    on = Workbench(photos)
    lent, known = shared(on, ("pooled", "embedding")), sent(known_of(on))
    known = replace(known, meta=replace(known.meta, path=tmp_path / "nowhere.h5"))
    stage = calm.records[0]["stage"]
    order = Order(
        setting=calm.settings[calm.records[0]["id"]],
        seed=0,
        site=Site(
            cache=tmp_path / "nowhere.h5",
            attributes=on.attributes,
            folder=tmp_path / "nowhere",
            device="cpu",
            select="val.worst_group",
        ),
    )
    files = {stage: pack(tmp_path / "calm" / stage)}
    monkeypatch.setattr("embedcal.cache.open_cache", lambda *a: pytest.fail("a file was opened"))
    record, made = sent(perform(sent(order), lent, known, files))
    assert record["status"] == "done", record
    assert not (tmp_path / "nowhere").exists()
    for key in ("id", "rules", "val", "test", "stage"):
        assert record[key] == calm.records[0][key]
    unpack(made, tmp_path / "g" / record["id"])
    mine, theirs = (
        sorted(p.relative_to(f) for p in (f / record["id"]).rglob("*"))
        for f in (tmp_path / "g", tmp_path / "calm")
    )
    assert mine == theirs


def test_what_a_node_knows_of_a_cache_can_be_written_to_and_stays_as_it_is(photos) -> None:
    known = known_of(Workbench(photos))
    for _ in range(2):
        weights, bank = known.projection(), known.text("class")
        assert weights is not None
        np.testing.assert_array_equal(weights.image_weight, photos.projection().image_weight)
        np.testing.assert_array_equal(bank.embedding, photos.text("class").embedding)
        weights.image_weight[:] = 0
        bank.embedding[:] = 0
    assert (known.n_classes, known.n_attributes()) == (2, 2)
    assert known.fingerprint == photos.fingerprint
    assert known.banks == photos.banks


def test_files_with_several_names_travel_and_are_written_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "rules").mkdir(parents=True)
    (run / "rules" / "a").write_bytes(b"head")
    (run / "rules" / "b").hardlink_to(run / "rules" / "a")
    (run / "head").hardlink_to(run / "rules" / "a")
    (run / "other").write_bytes(b"head")
    files = sent(pack(run))
    assert len({id(content) for content in files.values()}) == 2
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "old").write_text("")
    unpack(files, tmp_path / "to")
    assert pack(tmp_path / "to") == files
    assert (tmp_path / "to" / "head").stat().st_nlink == 3
    assert (tmp_path / "to").stat().st_mode & 0o777 == 0o755
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "to"]


def test_another_embedcal_on_a_node_is_one_line(cache, site) -> None:
    on = Workbench(cache)
    order = Order(setting=Setting(method="erm"), seed=0, site=site, version="0.0.1")
    with pytest.raises(EmbedcalError, match=r"embedcal 0\.0\.1 on every node, found") as caught:
        perform(order, shared(on), known_of(on), {})
    assert "\n" not in str(caught.value)


def test_tokens_that_a_node_does_not_have_are_one_line(cache, tmp_path: Path) -> None:
    known = known_of(Workbench(cache))
    gone = replace(known, meta=replace(known.meta, path=tmp_path / "none.h5"))
    with pytest.raises(EmbedcalError, match=r"with its tokens at .*every node has"):
        gone.take("tokens", np.arange(3))
    other = replace(known, meta=replace(known.meta, fingerprint="0" * 64))
    with pytest.raises(EmbedcalError, match="the same cache at"):
        other.take("tokens", np.arange(3))


ENV = ["erm:lr=1e-2:epochs=3", "jtt:epochs=2:stage_epochs=1", "dfr:c=1:refits=1"]


def only(spec: str) -> Setting:
    """The one setting of a space."""
    (setting,) = parse(spec).product()
    return setting


def judged_there(cache, site: Site, job, environments, before=None):
    """What a node gives back for a job of a rule of environments, all of it through pickle."""
    on = Workbench(cache)
    stage = job.method.stage
    files = {}
    if stage is not None:
        (first,) = stages([job], on, site)
        files = {first.id: pack(site.folder / first.id)}
    order = Order(setting=job.setting, seed=job.seed, site=site, before=before or {})
    return sent(perform(sent(order), shared(on), sent(known_of(on)), files, sent(environments)))


def test_a_node_judges_by_environments_that_were_sent(cache, site, tmp_path, monkeypatch) -> None:
    """The same cells, so the same epochs, as beside the probe; it meets no probe itself."""
    site = replace(site, select="val.env")
    calm = grid(ENV, cache, out=site.folder, seeds=1, select="val.env", engine="sequential")
    on = Workbench(cache)
    jobs = plan(calm.settings.values(), [0], site, on)
    environments = _environments(jobs, site, on)
    assert environments is not None
    monkeypatch.setattr("embedcal.environments.infer", lambda *a: pytest.fail("a probe there"))
    for job, wanted in zip(jobs, calm.records, strict=True):
        record, made = judged_there(cache, site, job, environments)
        assert record["status"] == "done", record
        for key in ("id", "rules", "environments", "selection", "val", "test", "labels_used"):
            assert record[key] == wanted[key]
        assert "worst_env" in record["val"]
        assert not any("environments" in name for name in made)


def test_what_a_run_kept_before_is_sent_and_not_lost(cache, site, monkeypatch) -> None:
    """Its rule on demand; and a solver's head, which is judged again and not solved."""
    specs = [ENV[0], ENV[2]]
    grid(specs, cache, out=site.folder, seeds=1, select="oracle.worst_group", engine="sequential")
    site, on = replace(site, select="val.env"), Workbench(cache)
    jobs = plan(map(only, specs), [0], site, on)
    environments = _environments(jobs, site, on)
    monkeypatch.setattr("embedcal.methods.dfr.DFR.solve", lambda *a: pytest.fail("solved again"))
    for job in jobs:
        before = pack(site.folder / job.id)
        record, made = judged_there(cache, site, job, environments, before)
        assert record["status"] == "done", record
        unpack(made, site.folder / job.id)
        stored = load_run(site.folder / job.id)
        assert stored is not None
        assert stored.record["rules"] == record["rules"]
        assert all("worst_env" in entry["val"] for entry in record["rules"].values())
    assert {"oracle.worst_group", "val.env"} < set(
        load_run(site.folder / jobs[0].id).record["rules"]
    )
    # Asked for another rule now, the first would still be judged by environments.
    assert _environments(jobs[:1], replace(site, select="val.mean"), on) is not None
    assert _environments(jobs[1:], replace(site, select="val.mean"), on) is None


METHOD = '''
from dataclasses import dataclass
from embedcal.methods.erm import ERM

@dataclass(frozen=True, kw_only=True)
class Mine(ERM):
    """Minimises what ERM does."""
    name = "mine-of-ray"
'''


def test_a_method_in_a_file_travels_with_its_run(cache, site, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(METHOD)
    on = Workbench(cache)
    setting = Setting(method=str(file), options={"epochs": 1})
    (job,) = plan([setting], [0], site, on)
    source = file.read_bytes()
    file.unlink()
    order = Order(setting=setting, seed=0, site=site, source=source)
    record, _ = perform(order, shared(on), known_of(on), {})
    assert (record["status"], record["id"], record["method"]) == ("done", job.id, "mine-of-ray")


def test_without_ray_or_for_an_accelerator_it_is_one_line(cache, tmp_path, monkeypatch) -> None:
    with pytest.raises(EmbedcalError, match=r"--device cpu with --engine ray, found 'cuda'"):
        grid(["dfr"], cache, out=tmp_path, seeds=1, engine="ray", device="cuda")
    assert not [*tmp_path.glob("*.json*")]
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "ray":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    before = dict(os.environ)
    with pytest.raises(EmbedcalError, match=r"pip install 'embedcal\[ray\]'"):
        grid(["dfr"], cache, out=tmp_path, seeds=1, engine="ray")
    assert dict(os.environ) == before


# A cluster of two workers on this machine.


def ray_workers() -> list:
    """Ray's workers that are at a run of ours."""
    import psutil

    found = []
    for process in psutil.process_iter(["cmdline"]):
        title = " ".join(process.info["cmdline"] or ())
        if title.startswith("ray::perform") or "ray::embedcal" in title:
            found.append(process)
    return found


def on_ray(cache: Path, folder: Path, specs: list[str], what=run_grid, **options) -> None:
    """A grid on a cluster of two, from a process of its own, as Ray leaves things behind in it."""
    child = start(what, cache, folder, specs, engine="ray", jobs=2, **options)
    child.join()
    assert child.exitcode == 0


def quiet(folder: Path) -> list[str]:
    """Claims that are left behind."""
    return [path.name for path in (folder / ".claims").glob("????????????.lock")]


@pytest.mark.slow
def test_a_cluster_gives_what_one_process_gives_and_repeats_nothing(made, tmp_path) -> None:
    specs = [*SLOW, "dfr:c=1:refits=1", "erm:optimizer=sgd:lr=1e38:epochs=3"]
    calm = run_grid(made, tmp_path / "calm", specs, seeds=2)
    with open_cache(made) as cache:
        counted = scored(cache.fingerprint, "val.mean").times
    on_ray(made, tmp_path / "g", specs, seeds=2)
    found = run_grid(made, tmp_path / "g", specs, seeds=2)
    assert found.reused == len(found.records)
    assert [r["id"] for r in found.records] == [r["id"] for r in calm.records]
    assert outcome(tmp_path / "g") == outcome(tmp_path / "calm")  # here even to the bit
    assert [r["reason"] for r in found.failed] == [r["reason"] for r in calm.failed]
    assert set(times_done(tmp_path / "g").values()) == {1}
    assert {r["engine"] for r in found.done} == {"ray"}
    assert not quiet(tmp_path / "g")
    with open_cache(made) as cache:
        assert scored(cache.fingerprint, "val.mean").times == 2 * counted


@pytest.mark.slow
def test_environments_are_inferred_once_and_judge_on_every_node(made, tmp_path) -> None:
    calm = run_grid(made, tmp_path / "calm", ENV, seeds=2, select="val.env")
    on_ray(made, tmp_path / "g", ENV, seeds=2, select="val.env")
    found = run_grid(made, tmp_path / "g", ENV, seeds=2, select="val.env")
    assert found.reused == len(found.records) == 6
    assert outcome(tmp_path / "g") == outcome(tmp_path / "calm")
    mine, theirs = ([record["environments"] for record in grid.records] for grid in (found, calm))
    assert mine == theirs
    assert {record["engine"] for record in found.records} == {"ray"}
    lines = (tmp_path / "g" / FOLDER / "results.jsonl").read_text().splitlines()
    assert len(lines) == 1  # one probe, and it is the driver's
    assert not quiet(tmp_path / "g")
    # Finished without the rule, asked for it now.
    run_grid(made, tmp_path / "late", ENV, seeds=2, select="oracle.worst_group")
    on_ray(made, tmp_path / "late", ENV, seeds=2, select="val.env")
    late = run_grid(made, tmp_path / "late", ENV, seeds=2, select="val.env")
    assert late.reused == 6
    for record, wanted in zip(late.records, calm.records, strict=True):
        assert wanted["rules"].items() <= record["rules"].items()
        own = wanted["method"] == "dfr"
        assert own or "oracle.worst_group" in record["rules"]


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_is_survived(made, tmp_path) -> None:
    run_grid(made, tmp_path / "calm", SLOW)
    over, killed = threading.Event(), []

    def kill() -> None:
        while not killed and not over.wait(0.01):
            if count(tmp_path / "g") >= 4:
                for worker in ray_workers()[:1]:
                    worker.send_signal(signal.SIGKILL)
                    killed.append(worker.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    on_ray(made, tmp_path / "g", SLOW)
    over.set()
    killer.join()
    assert killed
    assert {record["engine"] for record in load(tmp_path / "g").records.values()} == {"ray"}
    assert outcome(tmp_path / "g") == outcome(tmp_path / "calm")
    assert set(times_done(tmp_path / "g").values()) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=str)
def test_a_grid_that_is_stopped_leaves_nothing_running_and_goes_on(how, made, tmp_path) -> None:
    import psutil

    child = start(run_grid, made, tmp_path, SLOW, engine="ray", jobs=2)
    until(lambda: count(tmp_path) >= 4, 120, "four lines")
    below = psutil.Process(child.pid).children(recursive=True)
    os.kill(child.pid, how)
    child.join(60)
    assert child.exitcode not in (None, 0)
    end = time.monotonic() + 90
    while time.monotonic() < end and any(alive(p) for p in below):
        time.sleep(0.2)
    assert not [p for p in below if alive(p)]
    run_grid(made, tmp_path, SLOW)
    run_grid(made, tmp_path / "calm", SLOW)
    assert outcome(tmp_path) == outcome(tmp_path / "calm")
    assert set(times_done(tmp_path).values()) == {1}


def alive(process) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def over_a_connection(
    cache: Path, folder: Path, specs: list[str], cpus: int = 2, **options
) -> None:
    """What a program does that uses Ray itself, and then a grid, twice."""
    import ray

    from embedcal.grids.engines.cluster import _local_environment

    with _local_environment() as temporary:
        own = {"num_cpus": cpus, "num_gpus": 0, "object_store_memory": 100 << 20}
        ray.init(address="local", include_dashboard=False, _temp_dir=temporary, **own)
        for number in range(2):
            run_grid(cache, folder / f"{number}", specs, **options)
            assert ray.is_initialized()
            assert ray.get(ray.put(3)) == 3
        ray.shutdown()


def twice(cache: Path, folder: Path, specs: list[str], **options) -> None:
    """Two clusters, one after the other, and nothing left of them in this process."""
    for number in range(2):
        run_grid(cache, folder / f"{number}", specs, **options)
        import ray

        assert not ray.is_initialized()
        assert not {*LOCAL, "RAY_AUTH_TOKEN"} & {*os.environ}


@pytest.mark.slow
@pytest.mark.parametrize("what", [over_a_connection, twice])
def test_a_connection_that_was_there_is_left_and_one_that_was_not_is_ended(what, made, tmp_path):
    on_ray(made, tmp_path, ["dfr:c=1,0.1:refits=1"], what)
    for number in range(2):
        assert len(times_done(tmp_path / f"{number}")) == 6


BUSY = '''
"""A method that writes down when it is at work."""
import time
from dataclasses import dataclass
from pathlib import Path
from embedcal.methods.base import option
from embedcal.methods.linear_probe import LinearProbe


@dataclass(frozen=True, kw_only=True)
class Busy(LinearProbe):
    """Fits a probe and takes its time."""

    name = "busy"
    number: int = option(0, "tells runs apart")

    def solve(self, task, seed):
        began = time.time()
        time.sleep(0.5)
        Path(LOG, str(began)).write_text(str(time.time()))
        return super().solve(task, seed)
'''


@pytest.mark.slow
def test_jobs_limit_the_runs_at_once_on_a_cluster_that_has_more(made, tmp_path: Path) -> None:
    file, log = tmp_path / "busy.py", tmp_path / "log"
    log.mkdir()
    file.write_text(BUSY.replace("LOG", repr(str(log))))
    on_ray(made, tmp_path, [f"{file}:number=0,1,2,3,4,5"], over_a_connection, cpus=4, seeds=1)
    spans = [(float(path.name), float(path.read_text())) for path in log.iterdir()]
    assert len(spans) == 12  # of two grids
    assert max(sum(a <= began < b for a, b in spans) for began, _ in spans) == 2
