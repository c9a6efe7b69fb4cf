//! The formats against the page's samples (`tests/data`, cut from it; the wiki's
//! non-breaking spaces in the log's columns are plain ones here), and against whatever bytes may come.

#![allow(clippy::unwrap_used)]

use jiff::civil::date;
use proptest::prelude::*;

use super::cfg::{Cfg, CfgProblem, OnConflict, parse, render_problems};
use super::log_text::{self, Event, Fault, Stats};
use super::names::{Kind, classify};
use super::{conflict, vmcfg};
use crate::datastore::Provisioning;

const SAMPLE_CFG: &str = include_str!("../../../tests/data/sample.cfg");
const SAMPLE_VMCFG: &str = include_str!("../../../tests/data/sample.vmcfg");
const SAMPLE_LOG: &str = include_str!("../../../tests/data/sample-import.log");
const VM: &str = "1GBDirectAttachedEmpty";

fn good(text: &str) -> Cfg {
    parse(text.as_bytes(), OnConflict::Stop).cfg.unwrap()
}

fn problems(text: &str) -> Vec<CfgProblem> {
    parse(text.as_bytes(), OnConflict::Stop).cfg.unwrap_err()
}

/// The sample with one line replaced, or with more behind.
fn with(from: &str, to: &str) -> String {
    assert!(SAMPLE_CFG.contains(from), "{from}");
    SAMPLE_CFG.replace(from, to)
}

#[test]
fn the_sample_is_read() {
    let parsed = parse(SAMPLE_CFG.as_bytes(), OnConflict::Rename);
    assert!(parsed.warnings.is_empty(), "{:?}", parsed.warnings);
    let cfg = parsed.cfg.unwrap();
    assert_eq!(cfg.vm_name, "1GBDirectAttachedEmpty(Production)");
    assert_eq!((cfg.folder.as_str(), cfg.host_system.as_str()), ("Test VMs", "10.30.240.197"));
    assert_eq!(cfg.target_vmx(), "1GBDirectAttachedEmpty.vmx");
    assert_eq!(cfg.on_conflict, OnConflict::Stop, "the file's word wins over the default");
    assert_eq!((cfg.register, cfg.access_time), (false, Some(1_329_951_258)));
    let [disk] = &cfg.disks[..] else { panic!("{:?}", cfg.disks) };
    assert_eq!((disk.size, disk.provisioning), (1 << 30, Provisioning::Thick));
    assert_eq!(disk.target_extent(), "1GBDirectAttachedEmpty(Production)-flat.vmdk");
    assert_eq!(cfg.line("version"), Some(4));
}

#[test]
fn encodings_and_line_ends() {
    let plain = good(SAMPLE_CFG);
    assert_eq!(good(&format!("\u{feff}{SAMPLE_CFG}")), plain);
    assert_eq!(good(&SAMPLE_CFG.replace('\n', "\r\n")), plain);
    let mut latin = b"# Virtuelle Maschine 'M\xFCller'\n".to_vec();
    latin.extend_from_slice(SAMPLE_CFG.as_bytes());
    assert_eq!(parse(&latin, OnConflict::Stop).cfg.unwrap().disks, plain.disks);
    let quoted =
        good(&with("vmname = \"1GBDirectAttachedEmpty(Production)\"", "vmname=\"the \"old\" one\" # \"x\""));
    assert_eq!(quoted.vm_name, "the \"old\" one");
    let utf16: Vec<u8> = SAMPLE_CFG.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let utf16 = [&[0xFF, 0xFE][..], &utf16].concat();
    assert!(parse(&utf16, OnConflict::Stop).cfg.unwrap_err()[0].message.contains("UTF-16"));
}

#[test]
fn every_error_is_told_at_once_with_its_line() {
    let text = "version = \"3\"\nvmname = 7\nservername = \"s\"\ndsname = \"d\"\ndirectory = \"../x\"\nnonsense\n\
                vmx-name = \"a/b.vmx\"\nvmdk.1.name = \"x.vmdk\"\nvmdk.1.size = 513\nvmdk.1.type = \"fat\"\n\
                on-conflict = \"replace\"\nservername = \"t\"\n";
    let found = problems(text);
    let has = |line: Option<u32>, key: &str, part: &str| {
        assert!(
            found.iter().any(|p| p.line == line && p.key == key && p.message.contains(part)),
            "{line:?} {key} {part}: {found:#?}"
        );
    };
    has(Some(1), "version", "only \"4\"");
    has(Some(2), "vmname", "quotation marks");
    has(Some(5), "directory", "'..'");
    has(Some(6), "", "neither a comment");
    has(Some(7), "vmx-name", "separator");
    has(None, "vmdk.0", "holes");
    has(None, "vmdk.1.extent-name", "missing");
    has(Some(9), "vmdk.1.size", "multiple of 512");
    has(Some(10), "vmdk.1.type", "\"thin\"");
    has(Some(11), "on-conflict", "\"replace\" is not a mode");
    has(Some(12), "servername", "line 3");
    assert_eq!(found.len(), 11, "{found:#?}");
    let rendered = render_problems("x.cfg", &found);
    assert_eq!(rendered.lines().count(), 12);
    assert!(rendered.starts_with("# 11 errors in x.cfg."), "{rendered}");
    assert!(rendered.contains("\nline 9: vmdk.1.size: 513 is not a multiple of 512;"), "{rendered}");
}

#[test]
fn single_faults() {
    for (from, to, part) in [
        ("vmdk.0.size = 1073741824", "vmdk.0.size = 0", "out of range"),
        ("vmdk.0.size = 1073741824", "vmdk.0.size = \"1073741824\"", "whole number"),
        ("vmdk.0.size = 1073741824", "vmdk.0.size = 99999999999999999999999999999999", "out of range"),
        ("vmdk.0.size = 1073741824", "vmdk.0.size = 1 GiB", "neither"),
        ("register-after-import = 0", "register-after-import = 2", "out of range"),
        ("on-conflict = \"stop\"", "on-conflict = \"merge\"", "not a mode"),
        ("vmdk.0.directory = \"1GB", "vmdk.0.directory = \"/1GB", "relative"),
        (
            "Empty(Production).vmdk\"\n\n#\n# The name of the dest",
            "\u{1}.vmdk\"\n\n#\n# The name of the dest",
            "control",
        ),
        ("(Production)-flat.vmdk", "-sesparse.vmdk", "does not end in -flat.vmdk or -rdm.vmdk"),
    ] {
        let found = problems(&with(from, to));
        assert!(found.len() == 1 && found[0].message.contains(part), "{to}: {found:?}");
    }
    assert!(problems(&"x\n".repeat(1 << 20)).len() == 1, "too long");
    assert!(problems("vmdk.4000000000.size = 512").iter().any(|p| p.message.contains("256 disks")));
}

#[test]
fn unknown_keys_are_warnings_and_defaults_follow_the_vm() {
    let text =
        SAMPLE_CFG.replace("vmdk.0.dsname", "#").replace("vmdk.0.directory", "colour") + "vmdk.0.x = 1\n";
    let parsed = parse(text.as_bytes(), OnConflict::Stop);
    let cfg = parsed.cfg.unwrap();
    let keys: Vec<_> = parsed.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(keys, ["colour", "vmdk.0.x"]);
    assert_eq!((&cfg.disks[0].datastore, &cfg.disks[0].directory), (&cfg.datastore, &cfg.directory));
    let without = SAMPLE_CFG.replace("on-conflict", "#");
    assert_eq!(parse(without.as_bytes(), OnConflict::Rename).cfg.unwrap().on_conflict, OnConflict::Rename);
}

#[test]
fn an_rdm_becomes_an_ordinary_disk_or_an_error() {
    let rdm = with("Empty(Production)-flat.vmdk", "-rdm.vmdk");
    assert_eq!(good(&rdm).disks[0].target_extent(), "1GBDirectAttachedEmpty(Production)-flat.vmdk");
    let kept = rdm + "vmdk.0.extent-rename = \"x-rdm.vmdk\"\n";
    assert!(problems(&kept)[0].message.contains("does not end in -flat.vmdk"));
    let named = with("vmdk.0.name = \"1GBDirectAttachedEmpty(Production)", "vmdk.0.name = \"a-rdm");
    assert!(problems(&named)[0].message.contains("ordinary disk"));
}

#[test]
fn two_files_with_one_destination_are_an_error() {
    let second = "vmdk.1.name = \"b.vmdk\"\nvmdk.1.rename = \"1gbdirectattachedempty(Production).vmdk\"\n\
                  vmdk.1.extent-name = \"b-flat.vmdk\"\nvmdk.1.size = 512\nvmdk.1.type = \"thin\"\n";
    let found = problems(&format!("{SAMPLE_CFG}{second}"));
    let keys: Vec<_> = found.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["vmdk.1.name", "vmdk.1.extent-name"], "{found:?}");
    let elsewhere = format!("{SAMPLE_CFG}{second}vmdk.1.directory = \"other\"\n");
    assert_eq!(good(&elsewhere).disks.len(), 2);
}

#[test]
fn the_vmcfg_is_the_sample() {
    let cfg = good(&with("on-conflict = \"stop\"", "on-conflict = \"rename\""));
    let exists = |_: &str, directory: &str| Ok::<_, std::io::Error>(directory == VM);
    let (renamed, redirects) = conflict::renamed(&cfg, str::to_owned, exists).unwrap();
    assert_eq!(vmcfg::render(&renamed), SAMPLE_VMCFG);
    assert_eq!(redirects.len(), 2, "one for the VMX, one for the disk, as the sample logs them");
    let again = good(SAMPLE_VMCFG);
    assert_eq!(renamed.changed_destinations(&again), Vec::<String>::new());
    assert!(cfg.changed_destinations(&again).contains(&"vmdk.0.directory".to_owned()));
}

#[test]
fn conflicts_are_numbered_alike_for_all_that_share_a_directory() {
    let mut cfg = good(SAMPLE_CFG);
    let mut other = cfg.disks[0].clone();
    other.directory = format!("{VM}(1)");
    cfg.disks.push(other);
    let mut third = cfg.disks[0].clone();
    third.datastore = "by name".into();
    cfg.disks.push(third);
    let exists = |_: &str, directory: &str| Ok::<_, std::io::Error>(directory == VM);
    let same = |_: &str| "one".to_owned();
    let (renamed, _) = conflict::renamed(&cfg, same, exists).unwrap();
    assert_eq!(renamed.directory, format!("{VM}(2)"), "(1) is a disk's own");
    assert_eq!(renamed.disks[0].directory, renamed.directory);
    assert_eq!(renamed.disks[1].directory, format!("{VM}(1)"));
    assert_eq!(renamed.disks[2].directory, renamed.directory, "one datastore by name and by UUID");
    let own = "vmdk.1.name = \"b.vmdk\"\nvmdk.1.extent-name = \"b-flat.vmdk\"\nvmdk.1.size = 512\nvmdk.1.type = \"thin\"\n";
    let draft = parse(format!("{SAMPLE_CFG}{own}").as_bytes(), OnConflict::Stop).draft;
    let stopped = conflict::stopped(&draft, |_, directory| Ok(directory == VM));
    let keys: Vec<_> = stopped.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["directory", "vmdk.0.directory"]);
    let all = conflict::free_name("x", |_| Ok::<_, std::io::Error>(true));
    assert!(matches!(all, Err(conflict::ConflictError::Exhausted(_))));
}

/// Every line of the sample, made by our own texts.
#[test]
fn the_log_is_the_sample() {
    let mut cfg = good(SAMPLE_VMCFG);
    cfg.server_name = "10.30.240.197".into(); // the page's log is of another day than its CFG
    let place = "/vmfs/volumes/4e3193a0-698e20ea-f9ef-180373f1beff/1GBDirectAttachedEmpty(1)/1GBDirectAttachedEmpty.vmx";
    assert_eq!(log_text::volume_path(&cfg.datastore, &cfg.directory, cfg.target_vmx()), place);
    let (cfg_file, vmx) = (format!("/{VM}.cfg"), format!("/{VM}.vmx"));
    let extent = format!("/{VM}(Production)-flat.vmdk");
    let disk = format!("{VM}(Production).vmdk");
    let fault = |thread, path: &str| {
        let message = log_text::unsupported(path);
        Fault { thread, file: "import_fuse.c".into(), line: 1241, error: 1, message }.to_string()
    };
    let redirect = Event::RedirectingRecover { from: VM, to: &format!("{VM}(1)") }.to_string();
    let kb = 1024;
    let small = |total, rate, average| {
        let (rate, incoming) = (rate * kb, average);
        Stats { total, written: total, rate, incoming, outgoing: average, ..Stats::default() }
    };
    let zeros = Stats {
        total: 1 << 30,
        skipped: 1 << 30,
        rate: 15887 * kb,
        keep_alives: 1,
        incoming: 512,
        ..Stats::default()
    };
    let (swp, tilde) = (format!("/.{VM}.cfg.swp"), format!("/{VM}.cfg~"));
    let mut ours = vec![
        Event::Open("/import.log").to_string(),
        Event::Open(&cfg_file).to_string(),
        Event::Create(&swp).to_string(),
        fault(3_055_209_360, &swp),
        Event::Create("/4913").to_string(),
        fault(3_065_838_480, "/4913"),
        Event::Open(&cfg_file).to_string(),
        Event::Create(&tilde).to_string(),
        fault(3_076_606_864, &tilde),
        Event::Truncate(&cfg_file, 0).to_string(),
        Event::Open(&cfg_file).to_string(),
        Event::SessionCreated("/").to_string(),
        redirect.clone(),
        redirect,
    ];
    ours.extend(log_text::session_block("/", &cfg));
    ours.extend([
        Event::Stats(&cfg_file, small(4938, 2, 4938)).to_string(),
        Event::Flush(&cfg_file).to_string(),
        Event::Create(&extent).to_string(),
        Event::Open(&extent).to_string(),
        Event::Stats(&extent, zeros).to_string(),
        Event::Flush(&extent).to_string(),
        Event::Create(&vmx).to_string(),
        Event::Open(&vmx).to_string(),
        Event::Importing(place).to_string(),
        Event::RedirectingDisk { from: &disk, to: &disk }.to_string(),
        Event::DoneImporting(place).to_string(),
        Event::Stats(&vmx, small(2600, 0, 2600)).to_string(),
        Event::Flush(&vmx).to_string(),
    ]);
    let theirs: Vec<_> =
        SAMPLE_LOG.lines().map(|line| line.split_at("2012-02-28 13:51:49.750429: ".len()).1).collect();
    assert_eq!(ours, theirs);
}

#[test]
fn log_lines_begin_with_the_time_and_stay_one_line() {
    let when = date(2012, 2, 28).at(13, 51, 49, 750_429_000);
    assert_eq!(
        log_text::line(when, &Event::Open("/import.log")),
        format!("{}\n", SAMPLE_LOG.lines().next().unwrap())
    );
    let forged = log_text::line(when, &Event::Open("/x\n2012-02-28 13:51:50.000000: done importing"));
    assert_eq!(forged.lines().count(), 1);
    let here = Fault::here(1, 1, "x");
    assert_eq!(here.file, "tests.rs");
}

#[test]
fn names_of_a_session() {
    let cfg = good(SAMPLE_CFG);
    let kind = |name: &str| classify(name, Some(&cfg)).kind;
    for name in [
        ".x.cfg.swp",
        "4913",
        "x.cfg~",
        "desktop.ini",
        "Thumbs.db",
        "autorun.inf",
        "other-flat.vmdk",
        "x.vmx",
    ] {
        assert_eq!(kind(name), Kind::Unsupported, "{name}");
    }
    assert_eq!(kind("Import.LOG"), Kind::Log);
    assert_eq!(kind("x.cfg"), Kind::Cfg);
    assert_eq!(kind("x.cfg.err"), Kind::CfgErr);
    assert_eq!(kind("x.vmcfg"), Kind::VmCfg);
    assert_eq!(kind("x.nvram"), Kind::Nvram);
    assert_eq!(kind("1gbdirectattachedempty.VMX"), Kind::Vmx);
    let extent = "1GBDirectAttachedEmpty(Production)-flat";
    assert_eq!(kind(&format!("{extent}.vmdk")), Kind::Extent(0));
    assert_eq!(kind("1GBDirectAttachedEmpty(Production).vmdk"), Kind::Descriptor(0));
    assert_eq!(kind(&format!("{extent}.pancbt")), Kind::Pancbt { disk: 0, index: 0 });
    assert_eq!(kind(&format!("{extent}.12.pancbt")), Kind::Pancbt { disk: 0, index: 12 });
    assert_eq!(kind(&format!("{extent}.012.pancbt")), Kind::Unsupported);
    let temporary = classify(&format!(".{}.vmdk.AbCdEf", extent.to_uppercase()), Some(&cfg));
    assert_eq!(temporary.kind, Kind::Extent(0));
    assert_eq!((temporary.name.as_str(), temporary.temporary), (cfg.disks[0].extent_name.as_str(), true));
    assert_eq!(kind(".import.log.AbCdEf"), Kind::Unsupported, "the log is never written by a client");
    assert_eq!(classify("any.vmx", None).kind, Kind::AwaitsCfg);
}

proptest! {
    #[test]
    fn any_bytes_are_a_cfg_or_its_errors(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let parsed = parse(&bytes, OnConflict::Stop);
        if let Err(found) = parsed.cfg {
            prop_assert!(!found.is_empty());
        }
    }

    #[test]
    fn any_lines_are_a_cfg_or_its_errors(lines in proptest::collection::vec(
        "(vmdk\\.[0-9]{1,3}\\.(name|size|type|dsname)|version|vmname|directory|[a-z.-]{0,9}) ?= ?(\"[^\n]{0,20}\"?|-?[0-9]{1,25})", 0..40)) {
        let _ = parse(lines.join("\n").as_bytes(), OnConflict::Rename);
    }

    #[test]
    fn rendered_and_read_back_it_is_the_same(
        name in "[A-Za-z0-9 \"äöü()_.-]{1,40}", directory in "[a-z0-9 ()]{1,20}(/[a-z]{1,9}){0,3}", sectors in 1u64..1 << 40, thin: bool,
    ) {
        prop_assume!(!name.trim().is_empty());
        let mut cfg = good(SAMPLE_CFG);
        cfg.vm_name = name;
        cfg.directory = directory;
        cfg.disks[0].size = (sectors * 512).min(1 << 40);
        cfg.disks[0].provisioning = if thin { Provisioning::Thin } else { Provisioning::Thick };
        let first = vmcfg::render(&cfg);
        let read = good(&first);
        prop_assert_eq!(&read.vm_name, &cfg.vm_name);
        prop_assert_eq!(&read.disks[0].size, &cfg.disks[0].size);
        prop_assert_eq!(vmcfg::render(&read), first);
    }

    #[test]
    fn any_name_has_a_kind(name in "\\PC{0,40}") {
        let cfg = good(SAMPLE_CFG);
        let _ = (classify(&name, Some(&cfg)), classify(&name, None));
    }
}
