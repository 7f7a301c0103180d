"""What a study says, and what trials try: pure functions of what is written."""

from __future__ import annotations

import itertools

import pytest
import yaml

from tether.compare.arm import Arm
from tether.compare.changes import changes, check_unchanged, removed
from tether.compare.plan import cases, check_plan, own_space, run_config, shared_space
from tether.compare.space import read_range
from tether.compare.storage import Stored
from tether.compare.study import dump_study, load_study
from tether.compare.suggest import STARTUP, Past, should_prune, suggest, tenths
from tether.errors import ConfigError

BASE = {"models": "demo:digits", "data": "demo:digits", "methods": "plain, l2_sp"}


def study(**given):
    return load_study({**BASE, **given})


def test_a_study_survives_its_yaml():
    made = study(
        data=["demo:digits", {"name": "few", "data": "demo:digits-few", "batch_size": 4}],
        methods=[
            "plain", "linear probe", {"l2_sp": {"space": {"weight": "log(0.01, 1)"}}},
            "adarand+elr:weight=3,beta=0.7",
            {"both": {"methods": ["regsl:radius=0.3", "elr"], "settings": {"lr": "1e-2"}}},
        ],
        noise=["", "symmetric:0.2"], shots=[0, 5], seeds="3, 4, 5", trials="7",
        space={"lr": [ "log", "1e-4", "1e-2"], "epochs": {"choice": [5, 10]}},
        settings={"batch-size": "16"}, score="best", prune=False,
    )  # fmt: skip
    assert load_study(yaml.safe_load(dump_study(made))) == made
    assert made.seeds == (3, 4, 5) and made.trials == 7
    assert [one.label for one in made.methods] == [
        "plain", "linear probe", "l2_sp", "adarand+elr:weight=3,beta=0.7", "both",
    ]  # fmt: skip
    assert made.methods[3].methods == ("adarand", {"elr": {"weight": 3, "beta": 0.7}})
    assert made.methods[2].space == {"l2_sp.weight": ("log", 0.01, 1.0)}


def test_cases_are_all_combinations_with_readable_names():
    made = study(
        models=["demo:digits", {"name": "other", "model": "demo:digits"}],
        noise=["", "symmetric:0.2"], shots=[0, 5],
    )  # fmt: skip
    names = [case.case_id for case in cases(made)]
    assert len(names) == len(set(names)) == 8
    assert names[0] == "digits, digits, clean, all samples"
    assert names[-1] == "digits, other, symmetric:0.2, 5 shots"
    assert [case.case_id for case in cases(study(noise="symmetric:0.4"))] == [
        "digits, symmetric:0.4"
    ]


def test_the_options_of_a_run():
    made = study(methods=["plain", "linear probe", "adarand+elr:beta=0.5"], settings={"lr": 0.02})
    case = cases(made)[0]
    tuned = {"epochs": 3.0, "elr.weight": 2.0, "adarand.weight": 0.5}
    config = run_config(case, made.methods[2], tuned, 7)
    assert config["methods"] == ["adarand:weight=0.5", "elr:beta=0.5,weight=2.0"]
    assert (config["epochs"], config["lr"], config["seed"]) == (3.0, 0.02, 7)
    assert run_config(case, made.methods[1], {}, 7)["freeze"] == "backbone"


def test_every_method_is_tuned_over_the_same_training_options_and_its_own():
    made = study(methods="plain, elr:weight=3, adarand+elr")
    plain, fixed, both = made.methods
    shared = [shared_space(made, one) for one in made.methods]
    assert shared[0] == shared[1] == shared[2] == made.space
    assert set(made.space) == {"lr", "epochs"}
    assert own_space(plain) == {}
    assert set(own_space(fixed)) == {"elr.beta"}
    assert {"adarand.weight", "elr.weight", "elr.beta"} <= set(own_space(both))
    assert (
        len({Arm(made, cases(made)[0], one, "accuracy", True).trials for one in made.methods}) == 1
    )


def ask(number, past=(), method="l2_sp", **given):
    shared = {"lr": ("log", 1e-4, 1e-2), "epochs": ("choice", 5, 10)}
    own = {f"{method}.weight": ("log", 1e-3, 1.0)}
    defaults = {"lr": 1e-3, "epochs": 10, f"{method}.weight": 5.0}
    return suggest(
        shared, own, defaults, past, number=number, case="c", method=method, seed=1000,
        higher=True, **given,
    )  # fmt: skip


def test_the_first_trial_takes_the_defaults_where_they_lie_in_the_ranges():
    first = ask(0)
    assert (first["lr"], first["epochs"]) == (1e-3, 10)
    assert 1e-3 <= first["l2_sp.weight"] <= 1


def test_random_trials_try_the_same_training_options_for_all_methods():
    for number in range(1, STARTUP):
        one, other = ask(number), ask(number, method="elr")
        assert (one["lr"], one["epochs"]) == (other["lr"], other["epochs"])
        assert one["l2_sp.weight"] != other["elr.weight"]
        assert one == ask(number)


def test_later_trials_learn_from_those_before_and_from_nothing_else():
    past = [Past(ask(n), -abs(ask(n)["lr"] - 3e-3)) for n in range(STARTUP)]
    assert ask(STARTUP, past) == ask(STARTUP, past)
    assert ask(STARTUP, past) != ask(STARTUP, past[::-1][:3])
    for number in range(STARTUP, 30):
        settings = ask(number, past)
        past.append(Past(settings, -abs(settings["lr"] - 3e-3)))
    late = sum(abs(one.settings["lr"] - 3e-3) for one in past[-10:])
    assert late < sum(abs(one.settings["lr"] - 3e-3) for one in past[:10])


def test_pruning_compares_shares_of_training():
    good, bad = [(n / 10, 0.8) for n in range(1, 11)], [(n / 5, 0.2) for n in range(1, 6)]
    past = [tenths(good)] * STARTUP
    assert tenths(bad) == dict.fromkeys(range(2, 11), 0.2)
    assert not should_prune(tenths(bad[:1]), past, True)  # too early to tell
    assert should_prune(tenths(bad[:2]), past, True)
    assert not should_prune(tenths(bad[:2]), past, False)
    assert not should_prune(tenths(bad[:2]), past[1:], True)  # too few to compare with
    assert not should_prune(tenths([(0.4, 0.9)]), past, True)


def stored(arm, kind, number, value, **row):
    of = {"status": "done", "validation": {"accuracy": value}, "curve": [], **row}
    return {arm._id(kind, number): Stored({"lr": float(number)}, of, 0, "")}


def test_trials_come_in_waves_and_seeds_after_them():
    made = study(trials=7, seeds=2, methods="plain, l2_sp", wave=2)
    arm = Arm(made, cases(made)[0], made.methods[0], "accuracy", True)
    known = {}
    seen = []
    while due := arm.due(known):
        seen.append([(run.kind, run.number) for run in due])
        for run in due:
            known |= stored(arm, run.kind, run.number, 0.5 + run.number / 100)
    trials = [("trial", n) for n in range(7)]
    assert seen == [trials[:4], trials[4:6], trials[6:], [("final", 0), ("final", 1)]]
    assert arm.chosen(known) == {"lr": 6.0}
    # what may begin does not depend on the order in which a wave ends
    half = {key: one for key, one in known.items() if "trial 1" in key or "trial 3" in key}
    assert [run.number for run in arm.due(half)] == [0, 2]


def test_failed_and_pruned_trials_are_not_chosen_and_the_first_of_equals_is():
    made = study(trials=4, seeds=2)
    arm = Arm(made, cases(made)[0], made.methods[0], "accuracy", True)
    known = {
        **stored(arm, "trial", 0, 0.4), **stored(arm, "trial", 1, 0.6),
        **stored(arm, "trial", 2, 0.9, status="failed"), **stored(arm, "trial", 3, 0.6),
    }  # fmt: skip
    assert arm.chosen(known) == {"lr": 1.0}
    none = {k: Stored(s.settings, {**s.row, "status": "failed"}, 0, "") for k, s in known.items()}
    assert arm.chosen(none) is None and arm.due(none) == []
    assert [run.number for run in arm.hopeless(none)] == [0, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": ["plian"]}, "unknown method 'plian'"),
        ({"methods": "plain, adarnd"}, "methods: adarnd: .*did you mean 'adarand'"),
        ({"methods": "plain, elr:wieght=3"}, "no option 'wieght': did you mean 'weight'"),
        ({"methods": {"a": {"spaces": {}}}}, "unknown key 'spaces'.*did you mean 'space'"),
        ({"methods": {"elr": {"space": {"elr.wait": "log(1, 2)"}}}}, "has no option 'wait'"),
        ({"methods": {"elr": {"space": {"sgm.weight": "log(1, 2)"}}}}, "names neither METHOD"),
        ({"seed": 1}, "an interval needs two seeds at least"),
        ({"seeds": "1, 1, 2"}, "seeds: '1' is given twice"),
        ({"seeds": [999, 1000]}, "tuning_seed 1000 is one of the seeds"),
        ({"trials": 0}, "trials must be at least 1"),
        ({"trails": 3}, "unknown key 'trails' of a study: did you mean 'trials'?"),
        ({"lr": 3}, "unknown key 'lr' of a study: options of the runs stand under settings"),
        ({"settings": {"lrr": 1}}, "unknown option 'lrr' under settings: did you mean 'lr'?"),
        ({"settings": {"seed": 1}}, "option seed cannot stand under settings"),
        ({"space": {"lr": "log(1, 0.1)"}}, "must go from a smaller number above 0 to a larger"),
        ({"space": {"lr": "0.1"}}, "is no range; write log"),
        ({"space": {"lrr": "log(1, 2)"}}, "space: 'lrr' cannot be tuned: did you mean 'lr'?"),
        ({"space": {"lr": "uniform(-1, 1)"}}, "option lr: must be at least 0, got -1"),
        ({"methods": {"elr": {"space": {"beta": "uniform(0, 3)"}}}}, "methods: elr: method elr"),
        ({"score": "lst"}, "score must be last or best, got 'lst'; did you mean 'last'?"),
        ({"baseline": "plan"}, "baseline 'plan' is none of the methods: did you mean 'plain'?"),
        ({"models": []}, "a comparison needs models"),
        ({"data": [{"name": "x"}]}, "data: an entry has no data:"),
        ({"methods": "plain, regsl+distance_constraint+zz"}, "unknown method 'zz'"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_told(given, message):
    base = {k: v for k, v in BASE.items() if not (k == "methods" and "method" in given)}
    with pytest.raises(ConfigError, match=message) as caught:
        check_plan(load_study({**base, **given}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["log(1e-4, 1e-2)", "uniform(0, 0.3)", "int(1, 20)", "choice(a, b)"]
)
def test_ranges_are_read_from_text_lists_and_mappings(text):
    kind, values = text.rstrip(")").split("(")
    parts = values.split(", ")
    found = read_range("x", text)
    assert found == read_range("x", [kind, *parts]) == read_range("x", {kind: parts})


def test_what_changed_is_told_and_adding_is_allowed_when_asked():
    before = study(trials=3, seeds=2)
    more = study(trials=4, seeds=3, methods="plain, l2_sp, elr")
    with pytest.raises(ConfigError, match=r"methods: elr is new; seeds: 2 is new.*--extend"):
        check_unchanged(before, more, extend=False, place="x")
    check_unchanged(before, more, extend=True, place="x")
    check_unchanged(before, study(trials=3, seeds=2, baseline="l2_sp"), extend=False, place="x")
    other = study(trials=3, seeds=2, settings={"lr": 0.5})
    with pytest.raises(ConfigError, match=r"settings\.lr: none before, 0\.5 now.*begin anew"):
        check_unchanged(before, other, extend=True, place="x")
    assert changes(before, before) == []


@pytest.mark.parametrize(
    ("given", "lost"),
    [
        ({"seeds": 1, "seed": None}, None),
        ({"trials": 2}, "trials: 3 before, 2 now"),
        ({"seeds": "5, 6"}, "seed 0 is gone"),
        ({"methods": "plain, elr"}, "method 'l2_sp' is gone"),
        ({"methods": "plain, l2_sp:weight=3"}, "method 'l2_sp' is gone"),
        ({"methods": ["plain", {"l2_sp": {"settings": {"lr": 1}}}]}, "is another one"),
        ({"models": ["demo:digits", {"name": "b", "model": "demo:digits"}]}, "called otherwise"),
        ({"score": "best"}, "score: last before, best now"),
    ],
)
def test_what_cannot_be_an_extension(given, lost):
    before = study(trials=3, seeds=2)
    if lost is None:
        with pytest.raises(ConfigError):
            load_study({**BASE, **given, "seeds": 1})
        return
    now = study(**{"trials": 3, "seeds": 2, **given})
    assert any(lost in line for line in removed(before, now))


def test_all_orders_of_ending_lead_to_the_same_trials():
    made = study(trials=6, seeds=2)
    arm = Arm(made, cases(made)[0], made.methods[1], "accuracy", True)
    outcomes = set()
    for order in itertools.islice(itertools.permutations(range(4)), 6):
        known = {}
        for _ in range(40):
            due = arm.due(known)
            if not due:
                break
            run = due[order[len(known) % 4] % len(due)]
            value = -abs(run.settings.get("lr", 0) - 2e-3)
            row = {"status": "done", "validation": {"accuracy": value}, "curve": []}
            known[run.id] = Stored(run.settings, row, 0, "")
        outcomes.add(str(sorted((run, one.settings) for run, one in known.items())))
    assert len(outcomes) == 1
