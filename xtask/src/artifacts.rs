//! Building without running: which programs came out of a cargo call, from its JSON messages.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::shell;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Artifact {
    pub(crate) name: String,
    /// `lib`, `bin`, `test`, `example`
    pub(crate) kind: String,
    /// Built with its tests, so running it runs them.
    pub(crate) is_test: bool,
    pub(crate) program: PathBuf,
}

/// Runs a cargo call that builds, and lists the programs it made or found fresh.
pub(crate) fn build(cargo: &mut Command) -> Result<Vec<Artifact>> {
    cargo.arg("--message-format=json-render-diagnostics");
    let mut artifacts = Vec::new();
    let status = shell::stream(cargo, |line| artifacts.extend(parse(line)))?;
    if !status.success() {
        bail!("it does not build ({status})");
    }
    Ok(artifacts)
}

fn parse(line: &str) -> Option<Artifact> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" {
        return None;
    }
    let kind = message["target"]["kind"][0].as_str()?;
    Some(Artifact {
        name: message["target"]["name"].as_str()?.to_owned(),
        kind: kind.to_owned(),
        is_test: message["profile"]["test"].as_bool()?,
        program: message["executable"].as_str()?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_are_listed() {
        let program = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"conformance"},
            "profile":{"test":true},"executable":"/t/conformance.exe"}"#;
        let found = parse(&program.replace('\n', " ")).unwrap();
        assert_eq!(
            (found.name.as_str(), found.kind.as_str(), found.is_test),
            ("conformance", "test", true)
        );
        let library = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"x"},
            "profile":{"test":false},"executable":null}"#;
        assert_eq!(parse(&library.replace('\n', " ")), None);
        assert_eq!(parse("warning: not JSON"), None);
    }
}
