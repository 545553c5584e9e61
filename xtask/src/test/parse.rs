//! The output of a test program, read line by line: libtest's format, which libtest-mimic shares.

use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    /// Not run, and why.
    Skipped(String),
}

/// What one test program said.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    tests: Vec<(String, Outcome)>,
    /// Outcomes printed, repeated names included.
    printed: usize,
    /// Reasons of tests that were skipped at run time, from `skipped: NAME: REASON`.
    skipped: BTreeMap<String, String>,
    /// A name whose outcome has not been seen: something was printed between the two.
    pending: Option<String>,
    /// Added up from the `test result:` lines; a doc-test run can have two.
    results: usize,
    counted: usize,
}

impl Parsed {
    pub(crate) fn line(&mut self, line: &str) {
        if let Some((before, rest)) = skip_notice(line) {
            if let Some((name, reason)) = rest.split_once(": ") {
                self.skipped
                    .insert(name.trim().to_owned(), reason.trim().to_owned());
            }
            if !before.is_empty() {
                self.line(before);
            }
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            self.results += 1;
            self.counted += ["passed", "failed", "ignored"]
                .iter()
                .map(|what| count_before(rest, what))
                .sum::<usize>();
            self.pending = None;
        } else if let Some((name, word)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        {
            match outcome(word) {
                Some(outcome) => self.add(name.trim(), outcome),
                None => self.pending = Some(name.trim().to_owned()),
            }
        } else if let Some(name) = self.pending.take() {
            // With one test thread the name comes first, then what the test prints, then this.
            match outcome(line) {
                Some(outcome) => self.add(&name, outcome),
                None => self.pending = Some(name),
            }
        }
    }

    /// A test that runs itself again in a child process may show what the child printed, outcome
    /// and result line and all. That is still one test, and it fails if either says so.
    fn add(&mut self, name: &str, outcome: Outcome) {
        self.printed += 1;
        match self.tests.iter_mut().find(|(known, _)| known == name) {
            Some((_, Outcome::Failed)) => {}
            Some((_, known)) => *known = outcome,
            None => self.tests.push((name.to_owned(), outcome)),
        }
    }

    /// Tells run-time skips from passes, and why the run is not to be trusted, if so.
    pub(crate) fn finish(mut self) -> (Vec<(String, Outcome)>, Option<String>) {
        let problem = if self.results == 0 {
            Some("it ended without a `test result:` line".to_owned())
        } else if self.counted != self.printed {
            let seen = self.printed;
            Some(format!(
                "it counts {} tests, but printed the outcome of {seen}",
                self.counted
            ))
        } else {
            None
        };
        for (name, outcome) in &mut self.tests {
            if *outcome != Outcome::Failed
                && let Some(reason) = self.skipped.get(name)
            {
                *outcome = Outcome::Skipped(reason.clone());
            }
        }
        (self.tests, problem)
    }
}

/// `skipped: NAME: REASON`, on a line of its own or after the name of a test that was running.
fn skip_notice(line: &str) -> Option<(&str, &str)> {
    let (before, rest) = line.split_once("skipped: ")?;
    (before.is_empty() || before.ends_with(" ... ")).then_some((before, rest))
}

fn outcome(word: &str) -> Option<Outcome> {
    // libtest may add the time taken: `ok <0.001s>`.
    let word = word.split(" <").next().unwrap_or(word).trim();
    match word {
        "ok" => Some(Outcome::Passed),
        "FAILED" => Some(Outcome::Failed),
        "ignored" => Some(Outcome::Skipped("ignored".to_owned())),
        _ => Some(Outcome::Skipped(
            word.strip_prefix("ignored, ")?.trim().to_owned(),
        )),
    }
}

/// The number before a word: 3 in `ok. 3 passed; 0 failed`.
fn count_before(line: &str, word: &str) -> usize {
    let words: Vec<_> = line
        .split([' ', ';', '.'])
        .filter(|part| !part.is_empty())
        .collect();
    let at = words.iter().position(|candidate| *candidate == word);
    at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Vec<(String, Outcome)>, Option<String>) {
        let mut parsed = Parsed::default();
        text.lines().for_each(|line| parsed.line(line));
        parsed.finish()
    }

    fn skipped(reason: &str) -> Outcome {
        Outcome::Skipped(reason.to_owned())
    }

    #[test]
    fn every_outcome_is_read() {
        let (tests, problem) = parse(
            "running 5 tests\n\
             test d01_exports_a_handle   ... ok\n\
             test d02_entry_forms ... FAILED\n\
             test a05_wine ... ignored, needs Wine 10\n\
             test a06_plain ... ignored\n\
             skipped: c07_late: no such call: here\n\
             test c07_late ... ok\n\
             test src/lib.rs - post (line 3) - compile ... ok\n\
             test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        assert_eq!(problem, None);
        let outcomes: Vec<_> = tests.iter().map(|(_, outcome)| outcome.clone()).collect();
        let expected = [
            Outcome::Passed,
            Outcome::Failed,
            skipped("needs Wine 10"),
            skipped("ignored"),
            skipped("no such call: here"),
            Outcome::Passed,
        ];
        assert_eq!(outcomes, expected);
        assert_eq!(tests[0].0, "d01_exports_a_handle");
        assert_eq!(tests[5].0, "src/lib.rs - post (line 3) - compile");
    }

    #[test]
    fn a_failure_is_never_called_a_skip() {
        let (tests, _) = parse("skipped: a: why\ntest a ... FAILED\n");
        assert_eq!(tests[0].1, Outcome::Failed);
    }

    #[test]
    fn output_inside_a_line_loses_no_outcome() {
        let text = "test a ... hello\nworld\nok\ntest b ... \nFAILED\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\n";
        let (tests, problem) = parse(text);
        assert_eq!(problem, None);
        assert_eq!(
            tests,
            [
                ("a".to_owned(), Outcome::Passed),
                ("b".to_owned(), Outcome::Failed)
            ]
        );
    }

    #[test]
    fn a_skip_notice_in_the_middle_of_a_line_is_seen() {
        let (tests, problem) = parse(
            "test a ... skipped: b: not here\nok\ntest b ... ok\n\
             test result: ok. 2 passed; 0 failed; 0 ignored\n",
        );
        assert_eq!(problem, None);
        let expected = [
            ("a".to_owned(), Outcome::Passed),
            ("b".to_owned(), skipped("not here")),
        ];
        assert_eq!(tests, expected);
    }

    #[test]
    fn what_a_child_process_prints_is_not_another_test() {
        let (tests, problem) = parse(
            "running 1 test\ntest a ... FAILED\n\
             test result: FAILED. 0 passed; 1 failed; 0 ignored; 1 filtered out\n\
             test a ... FAILED\ntest b ... ok\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored\n",
        );
        assert_eq!(problem, None);
        let expected = [
            ("a".to_owned(), Outcome::Failed),
            ("b".to_owned(), Outcome::Passed),
        ];
        assert_eq!(tests, expected);
    }

    #[test]
    fn a_run_that_died_or_hid_a_test_is_a_problem() {
        assert!(parse("test a ... ok\n").1.unwrap().contains("without"));
        let hidden = "test a ... ok\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\n";
        assert!(parse(hidden).1.unwrap().contains("counts 2"));
    }
}
