//! What an image, a recipe or a compressed wrapper could hold.

use std::io::Read;

use proptest::collection::vec;
use proptest::prelude::*;
use testkit::fuzz::feed;

use crate::compress::{Compression, Decoder, Encoder};
use crate::metadata::ImageMetadata;
use crate::recipe::Recipe;
use crate::tar::Reader;
use crate::{ArchivePath, Limits};

/// Most bytes that a decoder is asked for: a bomb is none of its own business.
const MOST: u64 = 1 << 20;

fn small() -> Limits {
    Limits { entries: 500, directories: 500, bytes: MOST, archive_bytes: MOST, ..Limits::default() }
}

/// Text with the words that mean something, in an order that does not.
fn text(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    let part = prop_oneof![3 => prop::sample::select(words).prop_map(str::to_owned), 1 => ".{0,12}"];
    vec(part, 0..24).prop_map(|parts| parts.concat())
}

#[test]
fn any_text_can_be_offered_as_metadata() {
    let words = &[
        "architecture: ",
        "x86_64",
        "\n",
        "properties:",
        "  os: ",
        "- ",
        "templates:",
        "&a ",
        "*a",
        "{",
        "}",
        "[",
        "]",
        "!!binary ",
        "\t",
        "  when: [create]",
        "/etc/hosts:",
        "creation_date: ",
        "1e999",
        "0x7fffffffffffffff",
        "\"",
        ": ",
        "? ",
        "|\n",
    ];
    feed("metadata.yaml", &text(words), |text| {
        if let Ok(metadata) = ImageMetadata::parse(text.as_bytes(), &small()) {
            let again = ImageMetadata::parse(metadata.to_yaml().as_bytes(), &Limits::default());
            assert!(again.is_ok(), "{text:?} was told as what cannot be read: {again:?}");
        }
    });
}

#[test]
fn any_text_can_be_offered_as_a_recipe() {
    let words = &[
        "name = ",
        "\"x\"",
        "\n",
        "[image]",
        "[[file]]",
        "[",
        "]",
        "{",
        "}",
        "= ",
        "aliases",
        "path = ",
        "\"../x\"",
        "mode = 0o",
        "packages",
        "suite",
        "mirror",
        "1979-05-27",
        "'''",
        "\"\"\"",
        ",",
        "#",
        "source",
        "command",
    ];
    feed("recipes", &text(words), |text| drop(Recipe::parse("noise.toml", &text)));
}

#[test]
fn any_bytes_can_be_offered_as_a_path_or_an_archive() {
    let name = vec(prop_oneof![4 => prop::sample::select(b"ab./\0\\".to_vec()), 1 => any::<u8>()], 0..40);
    feed("paths in archives", &name, |name| {
        if let Ok(path) = ArchivePath::parse(&name) {
            assert!(path.components().all(|part| !part.is_empty() && part != b"." && part != b".."));
        }
    });
    let header = (vec(any::<u8>(), 512..=512), vec((0usize..512, b' '..b'9'), 0..60), vec(any::<u8>(), 0..600));
    feed("archive headers", &header, |(mut header, changes, rest)| {
        changes.into_iter().for_each(|(at, byte)| header[at] = byte);
        // A sum that is right gets past the first check.
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header.extend(rest);
        let mut reader = Reader::new(&header[..], small(), None);
        while let Ok(Some(_)) = reader.next_entry() {}
    });
}

#[test]
fn any_bytes_can_be_offered_as_a_compressed_file() {
    let formats = prop::sample::select(vec!["gzip", "zstd", "xz", "bzip2"]);
    let input = (formats, vec(any::<u8>(), 0..400), vec((any::<prop::sample::Index>(), any::<u8>()), 0..6));
    feed("compressed wrappers", &input, |(format, plain, changes)| {
        let Some(format) = Compression::from_name(format) else { return };
        let Ok(mut encoder) = Encoder::new(format, Vec::new(), true) else { return };
        std::io::Write::write_all(&mut encoder, &plain).expect("memory");
        let mut packed = encoder.finish().expect("memory");
        let broken = !changes.is_empty();
        for (at, byte) in changes {
            let at = at.index(packed.len());
            packed[at] = byte;
        }
        let mut got = Vec::new();
        let read = Decoder::new(format, &packed[..]).map(|decoder| decoder.take(MOST).read_to_end(&mut got));
        assert!(broken || read.is_ok_and(|read| read.is_ok()) && got == plain);
    });
}
