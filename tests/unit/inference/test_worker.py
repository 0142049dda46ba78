import subprocess
import sys

from core import queues
from core.settings import Settings
from inference.worker import RenderChild, create_app
from storage import tables


def settings(tmp_path):
    return Settings(_env_file=None, var_dir=tmp_path, broker_url="redis://localhost:1/0")


def test_the_app_takes_portraits(tmp_path):
    app = create_app(settings(tmp_path))
    assert queues.RUN_PORTRAIT in app.tasks


def test_the_parent_imports_no_torch(tmp_path):
    code = (
        "import sys; from core.settings import Settings; from inference.worker import create_app;"
        f"create_app(Settings(_env_file=None, var_dir={str(tmp_path)!r}, broker_url='redis://localhost:1/0'));"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_child_loads_once_and_runs_a_job(storage, shelf):
    child = RenderChild(storage.settings, storage=storage)
    portrait_id, job_id = shelf.portrait(shelf.put(1))
    assert child.run(job_id) == "succeeded"
    assert child.state() is child.state()
    assert child.run(job_id) == "stepped back"
    with storage.db.reader() as session:
        assert session.query(tables.PortraitImage).filter_by(portrait_id=portrait_id).count() == 1
