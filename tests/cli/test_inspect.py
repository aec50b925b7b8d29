import arviz as az

from pyro_stcn.cli import main

from .conftest import refused, train


def test_it_leaves_an_arviz_file_a_table_and_pictures(finished, tmp_path, capsys):
    words = ["--draws", "4", "--sequences", "2", "--particles", "2", "--output", str(tmp_path)]
    main(["inspect", str(finished), *words])
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in ("z1", "z2", "z3"))
    assert "nats per step" in said
    idata = az.from_netcdf(str(tmp_path / "posterior.nc"))
    assert idata["posterior"]["z1"].shape[:3] == (1, 4, 2)
    assert "kl_z3" in idata["sample_stats"]
    for name in ("kl.png", "training.png", "sequences.png"):
        assert (tmp_path / name).stat().st_size > 1000, name


def test_a_system_without_latents(walks, tmp_path, capsys):
    folder = tmp_path / "rnn"
    main([*train(walks, folder, "--system", "rnn", steps=1), "--test-particles", "0"])
    main(["inspect", str(folder)])
    assert "no latents" in capsys.readouterr().out
    assert {path.name for path in (folder / "inspected").iterdir()} == {"training.png", "sequences.png"}


def test_nonsense_is_refused(finished, capsys):
    assert "must be at least 1" in refused(capsys, "inspect", finished, "--draws", 0)
    assert "--seed must be from 0" in refused(capsys, "inspect", finished, "--seed", 2**40)
