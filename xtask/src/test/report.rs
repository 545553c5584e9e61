//! What one backend's run came to, and the lines at the end.

use super::parse::Outcome;

/// The backends, in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Epoll,
    Iocp,
}

impl Backend {
    pub(crate) const ALL: [Self; 2] = [Self::Epoll, Self::Iocp];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Epoll => "epoll",
            Self::Iocp => "iocp",
        }
    }
}

/// Everything that was seen of one backend.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) backend: Backend,
    /// `Wine 8.0`
    pub(crate) system: String,
    /// The test program, the test, what came of it.
    pub(crate) tests: Vec<(String, String, Outcome)>,
    /// What makes the run worthless or incomplete, beyond failed tests.
    pub(crate) problems: Vec<String>,
}

impl Report {
    pub(crate) fn new(backend: Backend, system: String) -> Self {
        Self {
            backend,
            system,
            tests: Vec::new(),
            problems: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, suite: &str, tests: Vec<(String, Outcome)>) {
        self.tests.extend(
            tests
                .into_iter()
                .map(|(name, outcome)| (suite.to_owned(), name, outcome)),
        );
    }

    fn count(&self, wanted: fn(&Outcome) -> bool) -> usize {
        self.tests
            .iter()
            .filter(|(.., outcome)| wanted(outcome))
            .count()
    }

    pub(crate) fn passed(&self) -> usize {
        self.count(|outcome| *outcome == Outcome::Passed)
    }

    /// A program that died is a failure too, so that the sum never looks better than the run.
    pub(crate) fn failed(&self) -> usize {
        self.count(|outcome| *outcome == Outcome::Failed) + self.problems.len()
    }

    pub(crate) fn skipped(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Skipped(_)))
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        let failed = self
            .tests
            .iter()
            .filter(|(.., outcome)| *outcome == Outcome::Failed);
        let failed = failed
            .map(|(suite, name, _)| format!("{}: {}", self.backend.name(), full_name(suite, name)));
        failed
            .chain(
                self.problems
                    .iter()
                    .map(|problem| format!("{}: {problem}", self.backend.name())),
            )
            .collect()
    }

    /// `iocp (Wine 8.0): 143 passed, 0 failed, 2 skipped: name (why), name (why)`
    pub(crate) fn line(&self) -> String {
        let (passed, failed, skipped) = (self.passed(), self.failed(), self.skipped());
        let mut line = format!(
            "{} ({}): {passed} passed, {failed} failed, {skipped} skipped",
            self.backend.name(),
            self.system
        );
        let mut separator = ": ";
        for (suite, name, outcome) in &self.tests {
            if let Outcome::Skipped(reason) = outcome {
                line.push_str(&format!("{separator}{} ({reason})", full_name(suite, name)));
                separator = ", ";
            }
        }
        line
    }
}

/// Conformance tests and doc tests have names that stand alone; others get their program's.
fn full_name(suite: &str, name: &str) -> String {
    match suite {
        "conformance" | "doc" | "counts" => name.to_owned(),
        _ => format!("{suite}::{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_each_skipped_test_and_counts_a_dead_program() {
        let mut report = Report::new(Backend::Iocp, "Wine 8.0".into());
        report.add("conformance", vec![("d06_one".into(), Outcome::Passed)]);
        report.add(
            "conformance",
            vec![("c01_wake".into(), Outcome::Skipped("needs Wine 10".into()))],
        );
        report.add(
            "regressions",
            vec![("rst".into(), Outcome::Skipped("slow".into()))],
        );
        report.problems.push("regressions died".into());
        let expected = "iocp (Wine 8.0): 1 passed, 1 failed, 2 skipped: \
                        c01_wake (needs Wine 10), regressions::rst (slow)";
        assert_eq!(report.line(), expected);
        assert_eq!(report.failures(), ["iocp: regressions died"]);
    }
}
