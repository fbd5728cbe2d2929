//! Starts QEMU: image, payload, command line, and the certainty that it ends.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::Error;

/// Becomes QEMU, and leaves a watcher beside it: when the pipe on stdin closes, which it does
/// however the harness ends (kill -9 too), the watcher kills the machine, its own parent.
/// The comparison keeps it from killing a stranger if the machine is gone already.
const WATCHED: &str = "\
    exec 4<&0
    (read -r _ <&4; read -r _ _ _ parent _ </proc/self/stat
     [ \"$parent\" = $$ ] && kill -9 $$) &
    exec \"$@\" </dev/null 4<&-";

/// What one guest is made of.
pub(crate) struct Machine<'a> {
    /// Its number, from 1.
    pub(crate) node: u8,
    /// Where `vmlinuz`, `initrd.gz` and `root.img` are.
    pub(crate) image: &'a Path,
    /// For its socket and its console's log.
    pub(crate) dir: &'a Path,
    /// The disk image with what the test brings along.
    pub(crate) payload: Option<&'a Path>,
    /// The hub's loopback port; a guest without one has no network card.
    pub(crate) network: Option<u16>,
}

impl Machine<'_> {
    /// The socket of the port that carries commands.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join(format!("port{}", self.node))
    }

    /// The socket by which QEMU itself takes commands.
    pub(crate) fn qmp(&self) -> PathBuf {
        self.dir.join(format!("qmp{}", self.node))
    }

    /// The log of the serial console, and of QEMU's own messages.
    pub(crate) fn console(&self) -> PathBuf {
        self.dir.join(format!("console{}", self.node))
    }

    /// Starts QEMU. The machine ends when the child's stdin is closed.
    pub(crate) fn start(&self) -> Result<Child, Error> {
        let node = self.node;
        let image = self.image.display();
        let messages = File::create(self.console())
            .map_err(|source| Error::io("create the console's log", source))?;
        let mut command = Command::new("sh");
        command.args(["-c", WATCHED, "sh", "qemu-system-x86_64", "-nodefaults", "-no-user-config"]);
        command.args(["-display", "none", "-no-reboot", "-m", "2048"]);
        if hardware_virtualisation() {
            command.args(["-accel", "kvm", "-cpu", "max"]);
        } else {
            // An old processor is quicker to emulate than "max": a fifth less time until a
            // Swarm stands (shorter page tables, no AVX in the C library's string functions).
            command.args(["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Nehalem"]);
        }
        // One guest may use two processors; of several, each has its own.
        command.args(["-smp", if self.network.is_some() { "1" } else { "2" }]);
        let mut option = |name: &str, value: String| {
            command.args([name, &value]);
        };
        option("-chardev", format!("file,id=console,append=on,path={}", self.console().display()));
        option("-serial", "chardev:console".into());
        option("-device", "virtio-serial-pci".into());
        option(
            "-chardev",
            format!("socket,id=port,server=on,wait=off,path={}", self.socket().display()),
        );
        option("-device", "virtserialport,chardev=port,name=keepline".into());
        option("-qmp", format!("unix:{},server=on,wait=off", self.qmp().display()));
        // snapshot=on: writes go to a nameless temporary file; all guests share the image.
        option(
            "-drive",
            format!("file={image}/root.img,if=virtio,format=raw,cache=unsafe,snapshot=on"),
        );
        if let Some(payload) = self.payload {
            let file = payload.display();
            option("-drive", format!("file={file},if=virtio,format=raw,readonly=on"));
        }
        if let Some(port) = self.network {
            option("-netdev", format!("socket,id=n0,connect=127.0.0.1:{port}"));
            option(
                "-device",
                format!("virtio-net-pci,netdev=n0,romfile=,mac=52:54:00:00:00:{node:02x}"),
            );
        }
        option("-kernel", format!("{image}/vmlinuz"));
        option("-initrd", format!("{image}/initrd.gz"));
        let nic = if self.network.is_some() { "yes" } else { "no" };
        option(
            "-append",
            // net.ifnames=0: without udev the names are the kernel's; said for certainty.
            format!(
                "console=ttyS0 loglevel=5 panic=-1 softlockup_panic=1 watchdog_thresh=30 \
                 mitigations=off random.trust_cpu=on \
                 net.ifnames=0 node={node} nic={nic}"
            ),
        );
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(messages);
        command.spawn().map_err(|source| Error::io("start a guest", source))
    }
}

/// Whether KVM is worth a try: a processor that says so and a device that opens. (A sandbox
/// may have the device without a processor behind it; QEMU then hangs.)
fn hardware_virtualisation() -> bool {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let capable = flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    capable && File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

/// The directory with the guest's kernel, initrd and root image, built if need be.
pub(crate) fn image() -> Result<PathBuf, Error> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("build-image.sh");
    // Progress goes to the terminal: the first run takes minutes.
    let output = Command::new(&script)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| Error::io(format!("run {}", script.display()), source))?;
    succeeded("build-image.sh", &output)?;
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end()))
}

/// Makes a disk image in `dir` of the files under `from`.
pub(crate) fn payload_image(from: &Path, dir: &Path) -> Result<PathBuf, Error> {
    let image = dir.join("payload.img");
    let io = |source| Error::io(format!("make an image of {}", from.display()), source);
    // A quarter more for the file system's own tables.
    let size = size_of_tree(from).map_err(io)? * 5 / 4 + (16 << 20);
    File::create(&image).and_then(|file| file.set_len(size)).map_err(io)?;
    let output = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-d"])
        .args([from, &image])
        // Debian keeps it out of an ordinary user's PATH.
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
        .output()
        .map_err(io)?;
    succeeded("mke2fs", &output)?;
    Ok(image)
}

fn size_of_tree(dir: &Path) -> std::io::Result<u64> {
    let mut size = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        size += if kind.is_dir() { size_of_tree(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(size)
}

fn succeeded(program: &str, output: &std::process::Output) -> Result<(), Error> {
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Program {
        program: program.into(),
        status: output.status,
        stderr: String::from_utf8_lossy(&output.stderr).trim_end().into(),
    })
}
