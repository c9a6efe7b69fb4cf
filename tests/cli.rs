//! The command line as scripts and people meet it: exit codes, JSON, what is changed on disk and what is not.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a service may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Lab {
    root: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { root: tempfile::tempdir().unwrap() };
        fs::create_dir(lab.path("ds")).unwrap();
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\ndata-dir = \"{}\"\n[[share]]\nname = \"import\"\nkind = \"import\"\n\
             [[hypervisor]]\nname = \"local\"\nkind = \"directory\"\n[[hypervisor.datastore]]\nname = \"ds1\"\npath = \"{}\"\n",
            lab.path("data").display(),
            lab.path("ds").display()
        );
        lab.write("importfs.toml", &text);
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_importfs"));
        command.args(arguments).current_dir(self.root.path());
        command
    }

    /// Runs a command; returns its exit code and what it wrote.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let (code, out, err) = self.run(arguments);
        (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}")))
    }

    /// Starts a service and waits until it prints how to connect.
    fn serve(&self) -> Service {
        let mut child = self
            .command(&["serve", "--config", "importfs.toml"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("Connect with"), "{line}");
        Service(child)
    }
}

struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn cfg(directory: &str, kind: &str, size: u64) -> String {
    format!(
        "version = \"4\"\nvmname = \"vm\"\nservername = \"local\"\ndsname = \"ds1\"\ndirectory = \"{directory}\"\n\
         vmx-name = \"vm.vmx\"\nvmdk.0.name = \"vm.vmdk\"\nvmdk.0.extent-name = \"vm-flat.vmdk\"\n\
         vmdk.0.size = {size}\nvmdk.0.type = \"{kind}\"\n"
    )
}

/// Every name below a directory, with its length.
fn tree(path: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        found.push((entry.path(), entry.metadata().unwrap().len()));
        if entry.path().is_dir() {
            found.extend(tree(&entry.path()));
        }
    }
    found.sort();
    found
}

const CONFIG: &[&str] = &["--config", "importfs.toml"];

fn with_config<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [arguments, CONFIG].concat()
}

#[test]
fn check_tells_all_and_changes_nothing() {
    let lab = Lab::new();
    fs::create_dir(lab.path("ds/taken")).unwrap();
    lab.write("good.cfg", &(cfg("vm", "thin", 1 << 62 >> 20) + "colour = 1\n"));
    lab.write("taken.cfg", &cfg("taken", "thin", 512));
    lab.write(
        "bad.cfg",
        "\u{feff}version = \"4\"\r\nvmname = 7\r\nservername = \"local\"\r\ndsname = \"ds9\"\r\n",
    );
    let before = tree(lab.root.path());

    let (code, told) = lab.json(&with_config(&["check", "good.cfg", "--json"]));
    assert_eq!((code, &told["ok"]), (0, &Value::Bool(true)), "{told}");
    assert_eq!(told["warnings"][0]["key"], "colour");
    assert!(told["warnings"][1]["message"].as_str().unwrap().contains("the disks may grow to"), "{told}");
    let plan = &told["plan"];
    assert_eq!(plan["disks"][0]["extent"]["to"], "/vmfs/volumes/ds1/vm/vm-flat.vmdk");
    assert_eq!(plan["datastores"][0]["thin_bytes"], 1_u64 << 42);
    assert!(plan["datastores"][0]["free_bytes"].as_u64().unwrap() > 0);

    let (code, told) = lab.json(&with_config(&["check", "bad.cfg", "--json"]));
    let keys: Vec<_> =
        told["errors"].as_array().unwrap().iter().map(|e| e["key"].as_str().unwrap()).collect();
    assert_eq!((code, told["errors"][0]["line"].as_u64()), (1, Some(2)), "{told}");
    assert_eq!(keys, ["vmname", "dsname", "directory", "vmx-name"], "{told}");

    let (code, out, _) = lab.run(&with_config(&["check", "taken.cfg"]));
    assert!(
        code == 1 && out.contains("line 5: directory: the directory [ds1] taken exists already"),
        "{out}"
    );
    lab.write("taken.cfg", &(cfg("taken", "thin", 512) + "on-conflict = \"rename\"\n"));
    let (code, out, _) = lab.run(&with_config(&["check", "taken.cfg"]));
    assert!(code == 0 && out.contains("taken exists: taken(1) is taken instead"), "{out}");
    lab.write("taken.cfg", &cfg("taken", "thin", 512));

    lab.write("thick.cfg", &cfg("vm", "thick", 1 << 45));
    let (code, out, _) = lab.run(&with_config(&["check", "thick.cfg"]));
    assert!(code == 1 && out.contains("vmdk.0.size: thick disks need"), "{out}");
    fs::remove_file(lab.path("thick.cfg")).unwrap();
    assert_eq!(lab.run(&with_config(&["check", "no-such.cfg"])).0, 2);
    let (code, _, err) = lab.run(&["check", "good.cfg"]);
    assert!(code == 2 && err.contains("datastore1"), "{err}");
    assert_eq!(tree(lab.root.path()), before, "a dry run changes nothing");
}

#[test]
fn the_default_of_on_conflict_is_the_configuration_s() {
    let lab = Lab::new();
    fs::create_dir(lab.path("ds/taken")).unwrap();
    lab.write("x.cfg", &cfg("taken", "thin", 512));
    assert_eq!(lab.run(&with_config(&["check", "x.cfg"])).0, 1);
    let text = fs::read_to_string(lab.path("importfs.toml")).unwrap();
    lab.write("importfs.toml", &(text + "[import]\non-conflict = \"rename\"\n"));
    assert_eq!(lab.run(&with_config(&["check", "x.cfg"])).0, 0);
}

#[test]
fn configuration_errors_are_exit_code_2_with_file_line_and_key() {
    let lab = Lab::new();
    let good = fs::read_to_string(lab.path("importfs.toml")).unwrap();
    let twice = "[[hypervisor.datastore]]\nname = \"ds1\"\npath = \"/tmp\"\n";
    for (text, told) in [
        (format!("{good}colour = 1\n"), "importfs.toml: line 13: hypervisor.datastore.colour: unknown field"),
        (good.replace("\"directory\"", "1"), "importfs.toml: line 9: hypervisor.kind: "),
        (
            good.replace("127.0.0.1:0", "localhost"),
            "importfs.toml: line 2: server.listen: invalid socket address",
        ),
        (
            format!("{good}{twice}"),
            "importfs.toml: line 14: hypervisor.datastore.name: 'ds1' is empty or names two",
        ),
    ] {
        lab.write("importfs.toml", &text);
        for command in [&["serve"][..], &["check", "x.cfg"], &["status"], &["user", "list"]] {
            let (code, _, err) = lab.run(&with_config(command));
            assert!(code == 2 && err.contains(told), "{command:?}: {told}: {err}");
        }
    }
    assert_eq!(lab.run(&["frobnicate"]).0, 2);
    assert_eq!(lab.run(&["status", "--data-dir", "no-such"]).0, 2);
}

#[test]
fn accounts_are_listed_for_scripts() {
    let lab = Lab::new();
    let mut child =
        lab.command(&with_config(&["user", "add", "anna"])).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"long-Pass1\nlong-Pass1\n").unwrap();
    assert!(child.wait().unwrap().success());
    let (code, told) = lab.json(&with_config(&["user", "list", "--json"]));
    assert_eq!((code, told["users"].clone()), (0, serde_json::json!(["anna"])));
    assert_eq!(lab.run(&with_config(&["user", "remove", "otto"])).0, 1);
}

#[test]
fn a_cfg_made_from_a_vmx_passes_the_check() {
    let lab = Lab::new();
    lab.write("vm.vmx", "displayName = \"Web\"\nscsi0:0.fileName = \"vm.vmdk\"\n");
    lab.write(
        "vm.vmdk",
        "# Disk DescriptorFile\nRW 2048 VMFS \"vm-flat.vmdk\"\nddb.thinProvisioned = \"1\"\n",
    );
    // The extent beside it is no descriptor, and is not read to find out.
    fs::File::create(lab.path("vm-flat.vmdk")).unwrap().set_len(1 << 40).unwrap();
    let new = ["cfg", "new", "vm.vmx", "--datastore", "ds1", "--type", "thick", "-o", "vm.cfg"];
    let (code, _, err) = lab.run(&new);
    assert_eq!(code, 0, "{err}");
    let (code, told) = lab.json(&with_config(&["check", "vm.cfg", "--json"]));
    assert_eq!(code, 0, "{told}");
    assert_eq!(
        (&told["plan"]["vm_name"], &told["plan"]["disks"][0]["type"]),
        (&"Web".into(), &"thick".into())
    );
    assert_eq!(told["plan"]["disks"][0]["size"], 1 << 20);
    let (code, _, err) = lab.run(&new);
    assert!(code == 2 && err.contains("exists already"), "{err}");
    fs::remove_file(lab.path("vm.vmdk")).unwrap();
    let (code, _, err) = lab.run(&["cfg", "new", "vm.vmx", "--datastore", "ds1"]);
    assert!(code == 1 && err.contains("scsi0:0 uses vm.vmdk, whose descriptor was not given"), "{err}");
}

#[test]
fn a_differential_s_state_is_told_for_scripts() {
    let lab = Lab::new();
    fs::write(lab.path("old"), [0; 4096]).unwrap();
    fs::write(lab.path("new"), [1; 4096]).unwrap();
    assert_eq!(lab.run(&["pancbt", "create", "--base", "old", "--new", "new", "--output", "x.pancbt"]).0, 0);
    assert_eq!(lab.json(&["pancbt", "info", "x.pancbt", "--json"]).1["data_bytes"], 4096);
    assert_eq!(
        lab.json(&["pancbt", "verify", "x.pancbt", "--json"]),
        (0, serde_json::json!({"whole": true, "error": null}))
    );
    let mut bytes = fs::read(lab.path("x.pancbt")).unwrap();
    bytes.truncate(bytes.len() - 1);
    fs::write(lab.path("x.pancbt"), bytes).unwrap();
    let (code, told) = lab.json(&["pancbt", "verify", "x.pancbt", "--json"]);
    assert!(code == 1 && told["error"].as_str().unwrap().contains("truncated"), "{told}");
}

#[test]
fn one_service_a_data_directory_and_its_status() {
    let lab = Lab::new();
    assert_eq!(lab.run(&with_config(&["status"])).0, 2, "there is no data directory yet");
    let service = lab.serve();
    let (code, told) = lab.json(&with_config(&["status", "--json"]));
    assert_eq!((code, told["service"]["pid"].as_u64()), (0, Some(u64::from(service.0.id()))), "{told}");
    assert!(told["service"]["listen"][0].as_str().unwrap().starts_with("127.0.0.1:"), "{told}");
    let (code, _, err) = lab.run(&with_config(&["serve"]));
    let process = format!("another importfs (process {}) serves this data directory", service.0.id());
    assert!(code == 2 && err.contains(&process), "{err}");

    // A kill -9 leaves socket and lock file behind: neither hinders the next start.
    drop(service);
    assert!(fs::metadata(lab.path("data/status.sock")).unwrap().file_type().is_socket());
    let (code, out, _) = lab.run(&with_config(&["status"]));
    assert!(code == 0 && out.contains("No service runs on") && out.contains("0 sessions"), "{out}");
    let service = lab.serve();
    assert_eq!(lab.json(&with_config(&["status", "--json"])).1["service"]["pid"], service.0.id());

    // A SIGTERM takes the socket along.
    let killed = Command::new("kill").arg(service.0.id().to_string()).status().unwrap();
    assert!(killed.success());
    let until = Instant::now() + PATIENCE;
    while lab.path("data/status.sock").exists() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!lab.path("data/status.sock").exists());
}

#[test]
fn serve_makes_its_own_datastore_only_without_a_configuration() {
    let lab = Lab::new();
    let mut child = lab
        .command(&["serve", "--data-dir", "elsewhere", "--listen", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let _service = Service(child);
    assert!(line.contains("Account 'import' made"), "{line}");
    assert!(lab.path("elsewhere/datastore1").is_dir());
    fs::remove_dir(lab.path("ds")).unwrap();
    let (code, _, err) = lab.run(&with_config(&["serve"]));
    assert!(code == 2 && err.contains("datastore ds1") && err.contains("is it mounted?"), "{err}");
    assert!(!lab.path("ds").exists());
}
