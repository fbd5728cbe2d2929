//! Docker's CLI plugin protocol: linked as `docker-keepline`, the program answers
//! `docker keepline …`. Source: docker/cli, cli-plugins/metadata/metadata.go (what the one
//! special argument must print) and cli-plugins/manager/manager.go, `PluginRunCommand` (the
//! arguments of `docker` are passed on whole, `keepline` among them).

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// What the program is asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    /// To introduce itself to Docker.
    Metadata,
    /// To run.
    Run {
        /// As the user typed it.
        name: &'static str,
        /// Program and arguments.
        arguments: Vec<OsString>,
    },
}

/// What `arguments`, program first, ask for.
pub fn call(arguments: impl Iterator<Item = OsString>) -> Call {
    let mut arguments: Vec<OsString> = arguments.collect();
    let program = arguments.first().and_then(|program| Path::new(program).file_name());
    if program != Some(OsStr::new("docker-keepline")) {
        return Call::Run { name: "keepline", arguments };
    }
    if arguments.get(1).is_some_and(|argument| argument == "docker-cli-plugin-metadata") {
        return Call::Metadata;
    }
    // Options of docker itself (--context …) come before; they do not concern us.
    if let Some(at) = arguments.iter().skip(1).position(|argument| argument == "keepline") {
        arguments.drain(1..=at + 1);
    }
    Call::Run { name: "docker keepline", arguments }
}

/// How the program introduces itself to Docker.
pub fn metadata() -> String {
    let metadata = serde_json::json!({
        "SchemaVersion": "0.1.0",
        "Vendor": "Keepline",
        "Version": env!("CARGO_PKG_VERSION"),
        "ShortDescription": "Find sessions that the load balancer has forgotten",
        "URL": env!("CARGO_PKG_REPOSITORY"),
    });
    format!("{metadata}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(arguments: &[&str]) -> Call {
        call(arguments.iter().map(OsString::from))
    }

    fn run(name: &'static str, arguments: &[&str]) -> Call {
        Call::Run { name, arguments: arguments.iter().map(OsString::from).collect() }
    }

    #[test]
    fn docker_is_answered_and_its_part_skipped() {
        let plugin = "/usr/libexec/docker/cli-plugins/docker-keepline";
        assert_eq!(asked(&[plugin, "docker-cli-plugin-metadata"]), Call::Metadata);
        assert_eq!(
            asked(&[plugin, "keepline", "check", "--netns", "keepline"]),
            run("docker keepline", &[plugin, "check", "--netns", "keepline"])
        );
        assert_eq!(
            asked(&[plugin, "--debug", "keepline", "check"]),
            run("docker keepline", &[plugin, "check"])
        );
        assert_eq!(asked(&[plugin, "--version"]), run("docker keepline", &[plugin, "--version"]));
    }

    #[test]
    fn under_its_own_name_nothing_is_skipped() {
        let arguments = ["/usr/bin/keepline", "keepline", "check"];
        assert_eq!(asked(&arguments), run("keepline", &arguments));
        let arguments = ["keepline", "docker-cli-plugin-metadata"];
        assert_eq!(asked(&arguments), run("keepline", &arguments));
        assert_eq!(asked(&[]), run("keepline", &[]));
    }
}
