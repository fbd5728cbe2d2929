//! Help, explanations, and what packages are made from.

use std::os::unix::fs::symlink;

use serde_json::Value;

use crate::run::{capture, folder, keepline};

const COMMANDS: [&[&str]; 27] = [
    &[],
    &["check"],
    &["explain"],
    &["timeouts"],
    &["timeouts", "set"],
    &["apply"],
    &["apply", "hold"],
    &["apply", "timeout"],
    &["apply", "rehash"],
    &["apply", "keepalive"],
    &["apply", "direct"],
    &["undo"],
    &["status"],
    &["heal"],
    &["touch"],
    &["abort"],
    &["capture"],
    &["guard"],
    &["policy"],
    &["migrate"],
    &["lab"],
    &["lab", "demo"],
    &["lab", "up"],
    &["lab", "write"],
    &["lab", "down"],
    &["lab", "run"],
    &["gen"],
];

#[test]
fn help_fits_eighty_columns_and_shows_examples_first() {
    for command in COMMANDS {
        for flag in ["--help", "-h"] {
            let ran = keepline(&[command, &[flag]].concat());
            assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{command:?}");
            for line in ran.out.lines() {
                assert!(line.chars().count() <= 80, "{command:?} {flag}: {line}");
            }
            if matches!(
                command,
                [] | ["check"
                    | "explain"
                    | "timeouts"
                    | "capture"
                    | "guard"
                    | "policy"
                    | "migrate"
                    | "lab"]
            ) {
                let examples = ran.out.find("\nExamples:\n").expect("examples");
                assert!(examples < ran.out.find("\nUsage: ").expect("usage"), "{}", ran.out);
            }
        }
    }
}

#[test]
fn every_example_of_the_help_is_understood() {
    for command in COMMANDS {
        let help = keepline(&[command, &["--help"]].concat()).out;
        for line in help.lines().filter(|line| line.starts_with("  keepline ")) {
            let words: Vec<&str> =
                line.split_whitespace().skip(1).take_while(|word| *word != "|").collect();
            // The description follows after two spaces; it is not part of the command.
            let typed = line.trim_start().split("  ").next().unwrap_or_default();
            let count = typed.split_whitespace().take_while(|word| *word != "|").count() - 1;
            let ran = keepline(&[&words[..count], &["--help"]].concat());
            assert_eq!(ran.status, Some(0), "{line}: {}", ran.err);
        }
    }
}

#[test]
fn without_a_command_the_help_is_an_error() {
    let ran = keepline(&[]);
    assert_eq!(ran.status, Some(2));
    assert!(ran.err.contains("Usage: keepline <COMMAND>"), "{}", ran.err);
}

#[test]
fn the_version_is_told() {
    let ran = keepline(&["--version"]);
    assert_eq!(ran.out, format!("keepline {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(ran.status, Some(0));
}

#[test]
fn every_code_of_the_list_is_explained() {
    let list = keepline(&["explain"]);
    assert_eq!(list.status, Some(0));
    let lines: Vec<&str> = list.out.lines().filter(|line| line.starts_with("KL")).collect();
    let pages =
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/codes")).unwrap();
    assert_eq!(lines.len(), pages.count(), "{}", list.out);
    for line in lines {
        let code = line.split_whitespace().next().unwrap();
        let page = keepline(&["explain", code]);
        assert_eq!((page.status, page.err.as_str()), (Some(0), ""));
        let heading = page.out.lines().next().unwrap();
        let (_, title) = heading.split_once(": ").expect("code and title");
        assert!(heading.starts_with(code) && line.ends_with(title), "{line} / {heading}");
        assert!(page.out.contains("\nWhat to do\n"), "{}", page.out);
        assert_eq!(page.out, keepline(&["explain", &code.to_lowercase()]).out);
    }
}

#[test]
fn an_unknown_code_is_an_error_that_names_the_range() {
    let ran = keepline(&["explain", "KL999"]);
    assert_eq!((ran.status, ran.out.as_str()), (Some(2), ""));
    assert!(ran.err.contains("`KL999`") && ran.err.contains("from KL001 to KL"), "{}", ran.err);
}

#[test]
fn man_pages_and_completions_are_written() {
    let folder = folder("generated");
    let path = folder.display().to_string();
    for what in ["man", "completions"] {
        assert_eq!(keepline(&["gen", what, &path]).status, Some(0));
    }
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for name in [
        "keepline.1",
        "keepline-check.1",
        "keepline-lab-demo.1",
        "_keepline",
        "keepline.bash",
        "keepline.fish",
    ] {
        assert!(names.iter().any(|it| it == name), "{name}: {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("gen") || name.contains("peer")), "{names:?}");
    let page = std::fs::read_to_string(folder.join("keepline-check.1")).unwrap();
    assert!(page.contains(".SH EXAMPLES") && page.contains(r"\-\-horizon"), "{page}");
    assert_eq!(keepline(&["gen", "man", "/nowhere"]).status, Some(2));
}

#[test]
fn docker_takes_it_for_a_plugin() {
    let plugin = folder("plugin").join("docker-keepline");
    symlink(env!("CARGO_BIN_EXE_keepline"), &plugin).unwrap();
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(&plugin).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (status, text) = run(&["docker-cli-plugin-metadata"]);
    assert_eq!(status, Some(0));
    let metadata: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(metadata["SchemaVersion"], "0.1.0");
    assert_eq!(metadata["Version"], env!("CARGO_PKG_VERSION"));
    for key in ["Vendor", "ShortDescription"] {
        assert!(metadata[key].as_str().is_some_and(|text| !text.is_empty()), "{text}");
    }
    assert_eq!(run(&["keepline", "check", "--from", &capture("swarm")]).0, Some(1));
    assert_eq!(run(&["--debug", "keepline", "check", "--from", &capture("clean")]).0, Some(0));
    assert!(run(&["keepline", "check", "--help"]).1.contains("Usage: docker keepline check"));
}
