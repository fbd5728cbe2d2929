//! Programs, files and folders.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;

/// The program under test.
pub const KEEPLINE: &str = env!("CARGO_BIN_EXE_keepline");

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// The text of a file of the repository.
pub fn text(path: &str) -> String {
    fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Where `scripts/install-missing` unpacks what it does not install, before the usual path.
fn path() -> OsString {
    let cache = std::env::var_os("KEEPLINE_CACHE")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/keepline")));
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let roots = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let all = cache.map(|it| it.join("tools/bin")).into_iter().chain(std::env::split_paths(&usual));
    std::env::join_paths(all.chain(roots)).unwrap()
}

/// Why `program` cannot be used, if so. `yaml` is Debian's Python with its parser, `root` the rights.
pub fn missing(program: &str) -> Option<String> {
    match program {
        "root" => {
            (!rustix::process::geteuid().is_root()).then(|| "needs root: unshare(1)".to_owned())
        }
        "yaml" => (!run(Command::new("/usr/bin/python3").args(["-c", "import yaml"])).0)
            .then(|| "needs Debian's python3-yaml".to_owned()),
        _ => (!std::env::split_paths(&path()).any(|folder| folder.join(program).is_file()))
            .then(|| format!("needs the program {program}")),
    }
}

/// A program by name.
pub fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    // Its own name is looked up there, too (`Command::new`, Unix).
    command.env("PATH", path()).stdin(Stdio::null());
    command
}

/// Runs a program: whether it went well, and all that it said.
pub fn run(command: &mut Command) -> (bool, String) {
    let Ok(output) = command.output() else { return (false, format!("{command:?} did not start")) };
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Runs a program that has to go well: what it wrote to stdout.
pub fn well(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{command:?}: {}\n{out}{error}", output.status);
    out
}

/// The documents of a YAML file of the repository.
pub fn yaml(path: &str) -> Vec<Value> {
    const TO_JSON: &str = "import json, sys, yaml\n\
        print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1], encoding='utf-8')))))";
    let file = repository(path);
    let json = well(Command::new("/usr/bin/python3").args(["-c", TO_JSON]).arg(file));
    serde_json::from_str(&json).unwrap()
}

/// The strings of a list.
pub fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    list.iter().map(|it| it.as_str().unwrap().to_owned()).collect()
}

/// A folder that goes with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "keepline-packaging-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// Writes a program into it.
    pub fn script(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A file in it, empty where it is not there.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
