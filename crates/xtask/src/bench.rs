//! `cargo xtask bench`: builds the product and the programs of the crate `bench` as people get them, and runs the latter,
//! which knows the rows and their words.

use std::path::PathBuf;
use std::process::Command;

use crate::programs::{self, Seen};
use crate::vm::{self, image::Release};
use crate::workspace::{self, Workspace, cargo};
use crate::{Result, need_root, run};

/// A build of the product that is to be measured instead of this repository's, as for the tests of a release.
const BUILT: &str = "SYSCTL_BIN_DIR";

/// Programs that run where nothing of the host's is: in the image, and as the limit that is measured against.
const STATIC: [&str; 2] = ["bench-bare", "bench-init"];

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    need_root("to start guests")?;
    let workspace = workspace::load()?;
    let product = match std::env::var_os(BUILT).filter(|value| !value.is_empty()) {
        Some(directory) => PathBuf::from(directory),
        None => {
            programs::build(&workspace, Seen::All)?;
            workspace.release()
        }
    };
    build(&workspace)?;
    let mut bench = Command::new(workspace.release().join("bench"));
    // Images of the recipes take minutes to build: they are kept there.
    bench.env("BENCH_BIN_DIR", product).arg("--cache").arg(workspace.own("bench"));
    // The kernel of a machine to compare with, where the ring `vm` has fetched one.
    bench.env("BENCH_MACHINE_TREE", vm::image::tree(&workspace, Release::THIRTEEN));
    if std::env::var_os("SYSCTL_TEST_WRITE").is_some() {
        bench.env("BENCH_PICTURE", workspace.root.join("balloon.svg"));
    }
    run::shown(bench.args(arguments))
}

fn build(workspace: &Workspace) -> Result<()> {
    let of_bench = |verb: &str, program: &str| {
        let mut command = cargo();
        command.current_dir(&workspace.root).args([verb, "--release", "-p", "bench", "--bin", program]);
        command
    };
    run::shown(&mut of_bench("build", "bench"))?;
    STATIC.iter().try_for_each(|program| {
        let mut command = of_bench("rustc", program);
        run::shown(command.args(["--", "-C", "target-feature=+crt-static", "-C", "relocation-model=static"]))
    })
}
