//! The Debian package: what is in it, and that it is the same each time.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::tools::{Folder, KEEPLINE, repository, run, text, tool, well};

/// The program under test, without what is there for debuggers.
fn program() -> PathBuf {
    static STRIPPED: OnceLock<PathBuf> = OnceLock::new();
    let stripped = STRIPPED.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("keepline");
        well(tool("strip").arg("-o").arg(&path).arg(KEEPLINE));
        path
    });
    stripped.clone()
}

/// Builds the package around it.
fn build(name: &str) -> PathBuf {
    let built = well(
        Command::new(repository("scripts/package"))
            .env("KEEPLINE_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
            .env("KEEPLINE_BINARY", program())
            .stdin(std::process::Stdio::null()),
    );
    PathBuf::from(built.lines().last().unwrap())
}

/// The one that most tests look at.
fn package() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("package")).clone()
}

fn unpacked(package: &Path, folder: &Folder) -> PathBuf {
    let root = folder.0.join("root");
    well(tool("dpkg-deb").arg("--raw-extract").arg(package).arg(&root));
    root
}

#[test]
fn the_package_holds_what_it_should_and_its_program_runs() {
    needs!("dpkg-deb", "strip", "git");
    let folder = Folder::new();
    let package = package();
    let version = well(Command::new(KEEPLINE).arg("--version"));
    let version = version.trim().strip_prefix("keepline ").unwrap();
    let arch = well(tool("dpkg").arg("--print-architecture"));
    let name = format!("keepline_{version}_{}.deb", arch.trim());
    assert_eq!(package.file_name().unwrap().to_str().unwrap(), name);

    let list = well(tool("dpkg-deb").arg("--contents").arg(&package));
    for (mode, path) in [
        ("-rwxr-xr-x", "./usr/bin/keepline"),
        ("-rw-r--r--", "./usr/lib/systemd/system/keepline.service"),
        ("-rw-r--r--", "./etc/keepline/config.toml"),
        ("-rw-r--r--", "./usr/share/man/man1/keepline.1.gz"),
        ("-rw-r--r--", "./usr/share/bash-completion/completions/keepline"),
        ("-rw-r--r--", "./usr/share/zsh/vendor-completions/_keepline"),
        ("-rw-r--r--", "./usr/share/fish/vendor_completions.d/keepline.fish"),
        ("-rw-r--r--", "./usr/share/doc/keepline/copyright"),
        ("-rw-r--r--", "./usr/share/doc/keepline/changelog.gz"),
        ("-rw-r--r--", "./usr/share/doc/keepline/guard.md"),
        ("-rw-r--r--", "./usr/share/doc/keepline/examples/keepline.rules.yml"),
        ("-rw-r--r--", "./usr/share/doc/keepline/examples/keepline.json"),
    ] {
        let line = list.lines().find(|line| line.ends_with(&format!(" {path}")));
        let line = line.unwrap_or_else(|| panic!("{path} is missing:\n{list}"));
        assert!(line.starts_with(&format!("{mode} root/root")), "{line}");
    }
    let modes = ["drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x", "lrwxrwxrwx"];
    let foreign =
        |line: &&str| !modes.iter().any(|it| line.starts_with(&format!("{it} root/root ")));
    assert_eq!(list.lines().find(foreign), None);

    let root = unpacked(&package, &folder);
    // As docker finds it, and asks it who it is.
    let plugin = root.join("usr/libexec/docker/cli-plugins/docker-keepline");
    let metadata = well(Command::new(&plugin).arg("docker-cli-plugin-metadata"));
    assert!(metadata.contains("\"SchemaVersion\":\"0.1.0\""), "{metadata}");
    let again = well(Command::new(root.join("usr/bin/keepline")).arg("--version"));
    assert_eq!(again.trim(), format!("keepline {version}"));

    let control = fs::read_to_string(root.join("DEBIAN/control")).unwrap();
    assert!(control.contains(&format!("Version: {version}\n")), "{control}");
    assert!(!control.contains('@') || control.matches('@').count() == 1, "{control}");
    let conffiles = fs::read_to_string(root.join("DEBIAN/conffiles")).unwrap();
    assert_eq!(conffiles, "/etc/keepline/config.toml\n");
    well(tool("md5sum").args(["--check", "--quiet", "DEBIAN/md5sums"]).current_dir(&root));
    let installed = fs::read_to_string(root.join("usr/lib/systemd/system/keepline.service"));
    assert_eq!(installed.unwrap(), text("packaging/systemd/keepline.service"));
    let changelog = well(tool("zcat").arg(root.join("usr/share/doc/keepline/changelog.gz")));
    assert!(changelog.starts_with(&format!("keepline ({version}) unstable; ")), "{changelog}");
    let mut lines = changelog.lines().filter(|line| !line.starts_with(" -- "));
    assert!(lines.all(|line| line.chars().count() <= 80), "{changelog}");
}

#[test]
fn two_builds_are_the_same() {
    needs!("dpkg-deb", "strip", "git");
    // Neither the place nor the time of the files that it is made of matters.
    let (first, second) = (fs::read(package()).unwrap(), fs::read(build("again")).unwrap());
    assert!(first == second, "two builds differ");
}

#[test]
fn lintian_finds_nothing() {
    needs!("dpkg-deb", "strip", "git", "lintian");
    let package = package();
    // The program under test is linked otherwise than the release, which needs no C library.
    let (well, said) = run(tool("lintian")
        .args(["--allow-root", "--fail-on", "error,warning"])
        .args(["--suppress-tags", "missing-dependency-on-libc,hardening-no-fortify-functions"])
        .arg(&package));
    assert!(well, "{said}");
}
