import pytest
from detectron2.config import LazyConfig, instantiate

from clipself_d2.engine.config import build, load_config, train_settings
from clipself_d2.engine.main import main
from clipself_d2.errors import InputError
from tests.engine.toy import CONFIG


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "toy.py"
    file.write_text(CONFIG)
    return file


def test_defaults_complete_the_train_section(path):
    settings = train_settings(load_config(path))
    assert (settings.max_iter, settings.accumulate, settings.checkpointer.period) == (12, 1, 4)
    assert settings.clip_grad_norm is None
    assert settings.ddp.find_unused_parameters is False


def test_overrides_reach_every_kind_of_key(path):
    cfg = load_config(
        path,
        [
            "train.max_iter=30",
            "train.clip_grad_norm=0.5",
            "optimizer.lr=2e-5",
            "optimizer.eps=1e-6",  # an argument of the target that the file leaves at its default
            "dataloader.train.length=7",
            "train.checkpointer.period=9",
            "train.init_checkpoint=/a/b-c.pth",
        ],
    )
    settings = train_settings(cfg)
    assert (settings.max_iter, settings.clip_grad_norm, settings.checkpointer.period) == (30, 0.5, 9)
    assert settings.init_checkpoint == "/a/b-c.pth"
    assert (cfg.optimizer.lr, cfg.optimizer.eps, cfg.dataloader.train.length) == (2e-5, 1e-6, 7)
    assert cfg.lr_multiplier.max_iter == 30


def test_an_override_reaches_a_value_of_a_list(path):
    path.write_text(CONFIG + "optimizer.betas = [0.9, 0.99]\n")
    assert list(load_config(path, ["optimizer.betas.1=0.5"]).optimizer.betas) == [0.9, 0.5]


def test_the_home_folder_in_overrides(path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for given in ("~/x", "'~/x'", '"~/x"'):
        assert load_config(path, [f"train.output_dir={given}"]).train.output_dir == "/home/me/x"
    assert load_config(path, ["train.output_dir='a~/x'"]).train.output_dir == "a~/x"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_itr=3", r"train.max_itr: unknown config key 'max_itr'; did you mean 'max_iter'\?"),
        ("modle.noise=3", r"did you mean 'model'\?"),
        ("model.nose=3", r"did you mean 'noise'\?"),
        ("model.noise.deeper=3", "unknown config key 'deeper'"),
        ("optimizer.params.weight_decya=3", r"did you mean 'weight_decay'\?"),
        ("train.max_iter", "form key=value"),
        ("train.max_iter=many", "train.max_iter"),
        ("train.max_iter=0", "must be at least 1"),
        ("train.precision=int8", "must be one of fp32, bf16, fp16"),
        ("train.device=tpu", "must be auto, cuda or cpu"),
        ("train.clip_grad_norm=-1", "must be positive"),
        ("train.checkpointer.max_to_keep=0", "max_to_keep"),
        ("train.output_dir=[", "output_dir"),
        ("model.noise=loud", "model.noise=loud: must be a number"),
        ("dataloader.train.seed=first", "must be a number"),
    ],
)
def test_wrong_overrides_are_said_in_one_line(path, override, message):
    with pytest.raises(InputError, match=message) as caught:
        load_config(path, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CONFIG.replace("ToyModel)(noise", "ToyModel)(nois"), r"model.nois: .*did you mean 'noise'\?"),
        (CONFIG.replace("max_iter=12", "max_iters=12"), r"did you mean 'max_iter'\?"),
        (CONFIG.replace("dict(period", "dict(perod"), r"checkpointer.perod: .*did you mean 'period'\?"),
        (CONFIG.replace("optimizer =", "optimizr ="), "no section 'optimizer'"),
        ("model = (", "syntax error"),
        ("from nowhere import something", "nowhere"),
        ("x = undefined", "undefined"),
        (CONFIG.replace("train.seed", "train.sead"), "dataloader.train.seed: .*train.sead"),
    ],
)
def test_wrong_files_are_said_in_one_line(path, text, message):
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(InputError, match="no such config file"):
        load_config(tmp_path / "missing.py")


def test_a_saved_config_can_be_loaded_again(path, tmp_path):
    from detectron2.config import LazyConfig

    cfg = load_config(path, ["model.noise=0.25"])
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    again = load_config(tmp_path / "config.yaml", ["train.max_iter=5"])
    assert instantiate(again.model).noise == 0.25
    assert train_settings(again).max_iter == 5


def test_a_yaml_config_cannot_run_code(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(f"model: !!python/object/apply:builtins.open ['{tmp_path}/ran', 'w']")
    with pytest.raises(InputError):
        load_config(file)
    assert not (tmp_path / "ran").exists()


HOSTILE = {
    "os.system": "{_target_: os.system, command: touch RAN}",
    "another module of the folder": "{_target_: evil.run}",
    "by a module's imports": "{_target_: torch.nn.functional.torch.hub.load, repo_or_dir: DIR, source: local}",
    "reads Python": "{_target_: clipself_d2.engine.config.load_config, path: DIR/evil.py}",
    "starts a command": "{_target_: torch.utils.collect_env.run, command: touch RAN}",
    "an object for a name": "{_target_: {_target_: builtins.getattr, object: x, name: y}}",
    "a link": "{_target_: '${train.called}', command: touch RAN}",
    "a made one": "'${oc.create:{_target_: os.system, command: touch RAN}}'",
    "in a list": "[1, {a: [{_target_: subprocess.getoutput, cmd: touch RAN}]}]",
    "an attribute": "{_target_: torch.nn.Linear.__init__.__globals__}",
    "missing": "{_target_: torch.nn.Missing}",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_an_untrusted_config_calls_nothing_else(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')")
    (tmp_path / "hubconf.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')")
    text = text.replace("RAN", str(tmp_path / "RAN")).replace("DIR", str(tmp_path))
    rest = "dataloader: {}\noptimizer: {}\nlr_multiplier: {}\ntrain: {called: os.system}\n"
    (tmp_path / "config.yaml").write_text(f"model: {text}\n{rest}")
    assert main(["--config-file", "config.yaml", "--untrusted-config", "--eval-only"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: config.yaml.model") and line.endswith("is not accepted with --untrusted-config")
    assert not (tmp_path / "RAN").exists()


def test_an_untrusted_config_is_not_python(path, capsys):
    assert main(["--config-file", str(path), "--untrusted-config", "--eval-only"]) == 2
    assert "is Python, which is executed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.betas=0.9", r"optimizer.betas=0.9: must be a list: 'optimizer.betas=\[0.9\]'"),
        ("dataloader.train=5", "dataloader.train=5: must be a section"),
        ("train.ddp=abc", "^train: "),
        ("model=5", "model=5: has no section 'model'"),
        ("model=null", "model=null: has no section 'model'"),
    ],
)
def test_wrong_containers_are_said_in_one_line(path, override, message):
    with pytest.raises(InputError, match=message) as caught:
        load_config(path, [override])
    assert "\n" not in str(caught.value)


def test_a_container_that_only_the_constructor_refuses_is_one_line(path, caplog):
    cfg = load_config(path, ["lr_multiplier.warmup_iters=[3]"])
    with pytest.raises(InputError, match=r"^lr_multiplier: .*wrong type") as caught:
        build(cfg, "lr_multiplier")
    assert "\n" not in str(caught.value) and not caplog.records


def test_the_output_folder_is_named_after_the_config(path):
    assert train_settings(load_config(path)).output_dir == "output/toy"
    assert train_settings(load_config(path, ["train.output_dir=a/b"])).output_dir == "a/b"


def test_a_node_can_be_put_in_another_s_place(tmp_path):
    """Its values are then overridden where it stands; under the other's name they would replace it."""
    file = tmp_path / "config.py"
    sections = "dataloader = dict()\noptimizer = dict()\nlr_multiplier = dict()\ntrain = dict()\n"
    file.write_text(f"other = dict(width=3, depth=4)\nmodel = dict(head=dict(width=1))\n{sections}")
    cfg = load_config(file, ["model.head=${other}", "other.width=5"])
    assert cfg.model.head == {"width": 5, "depth": 4}
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    message = r"^model.head.width: model.head is \$\{other\}; override other.width instead$"
    with pytest.raises(InputError, match=message):
        load_config(file, ["model.head=${other}", "model.head.width=5"])
    with pytest.raises(InputError, match=message):
        load_config(tmp_path / "config.yaml", ["model.head.width=5"])


def test_a_yaml_config_is_a_mapping(tmp_path):
    (tmp_path / "a.yaml").write_text("[1, 2]")
    with pytest.raises(InputError, match=r"a\.yaml: is not a mapping of sections"):
        load_config(tmp_path / "a.yaml")
