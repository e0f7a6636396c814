#!/usr/bin/env python3
"""Tests of the test harness: what breaks, hangs or is skipped must be seen and counted.

Prints `PASS|FAIL name: …` lines for tests/run.py."""
import os
import sys
import tempfile
import time
import unittest

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "boot"), os.path.join(HERE, "bench")]
import console  # noqa: E402
import guests  # noqa: E402
import measure  # noqa: E402
import run as runner  # noqa: E402


def shell(script, **keywords):
    return console.Console(["/bin/sh", "-c", script], **keywords)


class Programs(unittest.TestCase):
    """tests/run.py on test programs of every kind, played by shell scripts."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        os.makedirs(os.path.join(self.folder.name, "tests"))
        self.before = runner.BUILD, runner.LOGS
        runner.BUILD = runner.LOGS = self.folder.name
        self.addCleanup(self.restore)

    def restore(self):
        runner.BUILD, runner.LOGS = self.before

    def results(self, script):
        path = os.path.join(self.folder.name, "tests", "fake")
        with open(path, "w") as f:
            f.write("#!/bin/sh\nreport=${1#--gtest_output=xml:}\n" + script)
        os.chmod(path, 0o755)
        return [(word, name) for word, name, _ in runner.run_program("fake")]

    def test_a_report_gives_every_result(self):
        rows = self.results(
            """cat >$report <<'E'
<testsuites><testsuite><testcase name="a" status="run" classname="T"/>
<testcase name="b" status="run" classname="T"><failure message="no"/></testcase>
<testcase name="c" status="run" classname="T"><skipped message="x.cc:3&#x0A;why"/></testcase>
<testcase name="d" status="notrun" classname="T"/></testsuite></testsuites>
E
exit 1"""
        )
        words = ["PASS", "FAIL", "SKIP", "SKIP"]
        self.assertEqual(rows, [(w, f"fake/T.{c}") for w, c in zip(words, "abcd")])

    def test_a_crash_is_a_failure_of_the_test_it_was_in(self):
        rows = self.results(
            "echo '[ RUN      ] T.a'; echo '[       OK ] T.a (0 ms)'; echo '[ RUN      ] T.b'\n"
            "kill -SEGV $$"
        )
        self.assertEqual(rows, [("PASS", "fake/T.a"), ("FAIL", "fake/T.b")])

    def test_a_bad_status_without_a_failed_test_is_a_failure(self):
        rows = self.results("echo '<testsuites/>' >$report; exit 3")
        self.assertEqual(rows, [("FAIL", "fake")])

    def test_silence_is_a_failure(self):
        self.assertEqual(self.results("exit 0"), [("FAIL", "fake/before any test")])

    def test_lines_and_exit_status_must_agree(self):
        for script, passed, failed in (
            ("echo PASS a:", 1, 0),
            ("echo PASS a:; echo FAIL b: c; exit 1", 1, 1),
            ("echo PASS a:; exit 1", 1, 1),
            ("echo FAIL a: b", 0, 2),
            ("true", 0, 1),
        ):
            tally = runner.Tally(quiet=True)
            runner.lines_suite(tally, "s", ["/bin/sh", "-c", script])
            self.assertEqual((tally.passed, len(tally.failures)), (passed, failed), script)


class Consoles(unittest.TestCase):
    def test_a_time_out_is_a_failure(self):
        with shell("sleep 60") as c, self.assertRaisesRegex(console.Failure, "no /x/ in 0.2 s"):
            c.expect("x", 0.2)

    def test_an_early_end_is_a_failure(self):
        with shell("echo y; exit 4") as c, self.assertRaisesRegex(console.Failure, "status 4"):
            c.expect("x", 10)

    def test_another_status_is_a_failure(self):
        with shell("kill -SEGV $$") as c, self.assertRaisesRegex(console.Failure, "status -11"):
            c.wait_exit(10)

    def test_a_sanitizer_report_is_a_failure(self):
        with shell("echo ERROR: AddressSanitizer >&2") as c:
            with self.assertRaisesRegex(console.Failure, "broke"):
                c.wait_exit(10)

    def test_a_match_is_behind_the_one_before(self):
        with shell("echo one two one") as c:
            c.expect("two", 10)
            c.expect("one", 10)
            with self.assertRaises(console.Failure):
                c.expect("one", 0.2)

    def test_control_sequences_are_removed_wherever_they_are_cut(self):
        with shell(
            r"printf 'a\033'; sleep 0.2; printf '[6n\033[1;2'; sleep 0.2; printf 'mb\n'"
        ) as c:
            c.expect("^ab$", 10)

    def test_a_failed_guest_command_is_a_failure(self):
        with shell("echo; cat") as c:  # answers with the command itself, never with a status
            with self.assertRaisesRegex(console.Failure, "in 0.2 s"):
                c.shell("x", 0.2)
        with shell("read line; echo; echo nope; echo ==1==") as c:
            with self.assertRaisesRegex(console.Failure, "ended with 1"):
                c.shell("x", 10)

    def test_standard_input_can_be_missing(self):
        with shell("[ -e /proc/self/fd/0 ] || echo none", stdin="closed") as c:
            c.expect("none", 10)

    def test_a_terminal_that_is_left_changed_is_seen(self):
        with shell("stty raw", terminal=True) as c:
            c.wait_exit(10)
            self.assertFalse(c.settings_restored())
        with shell("stty raw; stty cooked; stty sane", terminal=True) as c:
            c.wait_exit(10)

    def test_cpu_time_is_counted(self):
        with shell("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done") as c:
            c.wait_exit(60)
            self.assertGreater(c.cpu_seconds, 0.01)


class Measures(unittest.TestCase):
    def test_the_clock_of_another_process_runs(self):
        with measure.Run(["/bin/sh", "-c", "echo a; while :; do :; done"], 30) as run:
            first = run.until("a").cpu
            time.sleep(0.3)
            self.assertGreater(run.sample().cpu, first)

    def test_a_run_that_ends_or_hangs_is_broken(self):
        with measure.Run(["/bin/echo", "b"], 30) as run, self.assertRaises(measure.Broken):
            run.until("a")
        with measure.Run(["/bin/sleep", "30"], 0.2) as run, self.assertRaises(measure.Broken):
            run.until("a")


class Archives(unittest.TestCase):
    def test_cpio_rows_are_aligned_and_ended(self):
        data = guests.cpio([guests.file_entry("bin/a", b"12345"), guests.device_entry("c", 5, 1)])
        at, names = 0, []
        while at < len(data):
            self.assertEqual(data[at : at + 6], b"070701")
            field = lambda i: int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16)
            size, length = field(6), field(11)
            name = data[at + 110 : at + 109 + length].decode()
            start = (at + 110 + length + 3) & ~3
            names.append((name, field(1), data[start : start + size], (field(9), field(10))))
            at = (start + size + 3) & ~3
        self.assertEqual(names[0], ("bin/a", 0o100755, b"12345", (0, 0)))
        self.assertEqual(names[1], ("c", 0o020600, b"", (5, 1)))
        self.assertEqual(names[2][0], "TRAILER!!!")


class Lines(unittest.TestResult):
    """Prints each result as a line."""

    def line(self, word, test, detail=""):
        print(f"{word} {test.id().partition('.')[2]}: {' '.join(detail.split())}"[:600], flush=True)

    def addSuccess(self, test):
        self.line("PASS", test)

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.line("FAIL", test, str(error[1]))

    def addError(self, test, error):
        super().addError(test, error)
        self.line("FAIL", test, f"{error[0].__name__}: {error[1]}")


if __name__ == "__main__":
    outcome = Lines()
    unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"]).run(outcome)
    sys.exit(0 if outcome.wasSuccessful() else 1)
