//! By hand, as root: `try_image build RECIPE.toml DIRECTORY`, `try_image unpack IMAGE DIRECTORY`,
//! `try_image pack DIRECTORY IMAGE COMPRESSION`, `try_image compare IMAGE.tar DIRECTORY ROUNDS` (with GNU tar).
#![allow(clippy::print_stdout, reason = "a program for the terminal")]

#[path = "../tests/support/child.rs"]
mod child;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

use images::compress::Compression;
use images::metadata::ImageMetadata;
use images::recipe::{Architecture, Recipe};
use images::unpack::{Options, unpack_unified};
use images::{Limits, build, pack};

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let begin = Instant::now();
    let said = match arguments.as_slice() {
        ["build", recipe, directory] => build_recipe(Path::new(recipe), Path::new(directory))?,
        ["unpack", image, directory] => unpack_image(Path::new(image), Path::new(directory))?,
        ["pack", directory, image, compression] => pack_directory(Path::new(directory), image, compression)?,
        ["compare", image, directory, rounds] => {
            compare(Path::new(image), Path::new(directory), rounds.parse().map_err(text)?)?
        }
        _ => {
            return Err("build RECIPE DIRECTORY | unpack IMAGE DIRECTORY | pack DIRECTORY IMAGE COMPRESSION | compare IMAGE DIRECTORY ROUNDS".to_owned());
        }
    };
    println!("{:.2} s: {said}", begin.elapsed().as_secs_f64());
    Ok(())
}

fn text(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    text
}

fn build_recipe(recipe: &Path, directory: &Path) -> Result<String, String> {
    let source = std::fs::read_to_string(recipe).map_err(text)?;
    let recipe = Recipe::parse(&recipe.display().to_string(), &source).map_err(text)?;
    let architecture = Architecture::host().ok_or("no recipes for this architecture")?;
    println!("{} {}", recipe.name, recipe.fingerprint(architecture));
    std::fs::create_dir(directory).map_err(text)?;
    let scratch = directory.with_extension("scratch");
    std::fs::create_dir(&scratch).map_err(text)?;
    let result = child::in_child(directory, Some(&scratch), |root| {
        let building = build::start(&recipe, architecture, Path::new("/tmp")).map_err(text)?;
        child::confine(root)?;
        let mut last = String::new();
        let built = building.finish(root, &Limits::default(), &mut |progress| {
            if progress.stage != last {
                progress.stage.clone_into(&mut last);
                println!("  {last}");
            }
        });
        built.map(|built| format!("{built:?}")).map_err(text)
    });
    std::fs::remove_dir_all(&scratch).map_err(text)?;
    result
}

fn unpack_image(image: &Path, directory: &Path) -> Result<String, String> {
    std::fs::create_dir(directory).map_err(text)?;
    child::in_child(directory, None, |root| {
        let input = File::open(image).map_err(text)?;
        child::confine(root)?;
        let unpacked = unpack_unified(input, root, &Options::default(), &mut |_| ()).map_err(text)?;
        Ok(format!("{} {} entries, {} bytes", unpacked.fingerprint, unpacked.entries, unpacked.bytes))
    })
}

fn pack_directory(directory: &Path, image: &str, compression: &str) -> Result<String, String> {
    let output = File::create(image).map_err(text)?;
    let compression = Compression::from_name(compression).ok_or("none, gzip, xz, zstd or bzip2")?;
    let metadata = ImageMetadata { architecture: "x86_64".to_owned(), creation_date: 0, ..ImageMetadata::default() };
    child::in_child(directory, None, |root| {
        let (_, packed) =
            pack::pack_unified(output, compression, &metadata, &BTreeMap::new(), root, &mut |_| ()).map_err(text)?;
        Ok(format!("{packed:?}"))
    })
}

/// Unpacks an uncompressed image by turns with GNU tar and with us, each time into a new directory; tells the medians.
fn compare(image: &Path, directory: &Path, rounds: usize) -> Result<String, String> {
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for gnu in [round % 2 == 0, round % 2 != 0] {
            // Removed at the end only: ext4 goes slowly around inodes that were freed within the last seconds.
            let directory = &directory.join(format!("{round}-{gnu}"));
            std::fs::create_dir_all(directory).map_err(text)?;
            rustix::fs::sync();
            let begin = Instant::now();
            if gnu {
                let mut tar = std::process::Command::new("tar");
                tar.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "-xpf"]).arg(image);
                let status = tar.arg("-C").arg(directory).status().map_err(text)?;
                if !status.success() {
                    return Err(format!("tar: {status}"));
                }
                theirs.push(begin.elapsed().as_secs_f64());
            } else {
                let root = File::open(directory).map_err(text)?;
                let input = File::open(image).map_err(text)?;
                let root = std::os::fd::AsFd::as_fd(&root);
                unpack_unified(input, root, &Options::default(), &mut |_| ()).map_err(text)?;
                ours.push(begin.elapsed().as_secs_f64());
            }
        }
    }
    std::fs::remove_dir_all(directory).map_err(text)?;
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let (theirs, ours) = (median(&mut theirs), median(&mut ours));
    Ok(format!("GNU tar {theirs:.3} s, ours {ours:.3} s, ratio {:.2}", ours / theirs))
}
