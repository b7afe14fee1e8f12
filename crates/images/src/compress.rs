//! The compressions that images come in, found by their first bytes.

use std::fmt;
use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A compression, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not compressed.
    None,
    /// RFC 1952.
    Gzip,
    /// The .xz format.
    Xz,
    /// The .lzma format that came before it; read only.
    Lzma,
    /// RFC 8878.
    Zstd,
    /// bzip2.
    Bzip2,
}

/// Most memory that an xz or lzma decoder may take: `xz -9` needs 65 MiB.
const LZMA_MEMORY: u64 = 256 << 20;
/// Largest zstd window, as a power of two (128 MiB): what `zstd -d` takes without asking.
const ZSTD_WINDOW_LOG: u32 = 27;

impl Compression {
    /// All that can be written, by the names that the API has for them.
    pub fn from_name(name: &str) -> Option<Compression> {
        Some(match name {
            "none" => Compression::None,
            "gzip" => Compression::Gzip,
            "xz" => Compression::Xz,
            "zstd" => Compression::Zstd,
            "bzip2" => Compression::Bzip2,
            _ => return None,
        })
    }

    /// What the first bytes of a file are; `head` should have 262 bytes or the whole file.
    pub fn detect(head: &[u8]) -> Result<Compression> {
        const VM: &str = "it holds a disk for a virtual machine; take the container variant of the image";
        const SQUASHFS: &str = "take the variant of the image with a tar archive (rootfs.tar.xz)";
        let known: [(&[u8], Compression); 7] = [
            (b"\x1f\x8b", Compression::Gzip),
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"\x5d\0\0", Compression::Lzma),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            // A skippable frame may come first (pzstd, seekable zstd).
            (b"\x50\x2a\x4d\x18", Compression::Zstd),
            (b"\x51\x2a\x4d\x18", Compression::Zstd),
            (b"BZh", Compression::Bzip2),
        ];
        if let Some((_, format)) = known.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Ok(*format);
        }
        if head.starts_with(b"hsqs") || head.starts_with(b"sqsh") {
            return Err(Error::Unsupported { what: "squashfs", hint: SQUASHFS });
        }
        if head.starts_with(b"QFI\xfb") {
            return Err(Error::Unsupported { what: "qcow2", hint: VM });
        }
        // Whether it really is an archive, its first checksum will tell; zeros are an empty one.
        let ustar = head.get(257..262) == Some(b"ustar");
        let v7 = head.len() >= 156 && head[148..156].iter().all(|byte| matches!(byte, b'0'..=b'7' | b' ' | 0));
        if ustar || v7 { Ok(Compression::None) } else { Err(Error::UnknownFormat) }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::None => "tar",
            Compression::Gzip => "gzip",
            Compression::Xz => "xz",
            Compression::Lzma => "lzma",
            Compression::Zstd => "zstd",
            Compression::Bzip2 => "bzip2",
        })
    }
}

/// Decompresses a stream; members and frames in a row are one stream, as with the command-line programs.
pub struct Decoder<R: BufRead> {
    format: Compression,
    inner: Inner<R>,
}

enum Inner<R: BufRead> {
    None(R),
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
    Lzma(Box<liblzma::bufread::XzDecoder<R>>),
    Zstd(Box<zstd::Decoder<'static, R>>),
    Bzip2(Box<bzip2::bufread::MultiBzDecoder<R>>),
}

impl<R: BufRead> Decoder<R> {
    /// A decoder for a known format.
    pub fn new(format: Compression, input: R) -> Result<Decoder<R>> {
        let broken = |source| Error::Decompress { format, source };
        let inner = match format {
            Compression::None => Inner::None(input),
            Compression::Gzip => Inner::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
            Compression::Xz | Compression::Lzma => {
                // Bit 3 = LZMA_CONCATENATED: several streams in a row.
                let stream = if format == Compression::Xz {
                    liblzma::stream::Stream::new_stream_decoder(LZMA_MEMORY, liblzma::stream::CONCATENATED)
                } else {
                    liblzma::stream::Stream::new_lzma_decoder(LZMA_MEMORY)
                };
                let stream = stream.map_err(|error| broken(error.into()))?;
                Inner::Lzma(Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream)))
            }
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(input).map_err(broken)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(broken)?;
                Inner::Zstd(Box::new(decoder))
            }
            Compression::Bzip2 => Inner::Bzip2(Box::new(bzip2::bufread::MultiBzDecoder::new(input))),
        };
        Ok(Decoder { format, inner })
    }

    /// The format.
    pub fn format(&self) -> Compression {
        self.format
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = match &mut self.inner {
            // The archive reader's buffer is as large as ours would be: read past it.
            Inner::None(input) => return input.read(buffer),
            Inner::Gzip(decoder) => decoder.read(buffer),
            Inner::Lzma(decoder) => decoder.read(buffer),
            Inner::Zstd(decoder) => decoder.read(buffer),
            Inner::Bzip2(decoder) => decoder.read(buffer),
        };
        result.map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            // An error of our own (a limit, a dead connection) came through the decoder: leave it as it is.
            _ if error.get_ref().is_some_and(|inner| inner.is::<Error>()) => error,
            _ => Error::Decompress { format: self.format, source: error }.into(),
        })
    }
}

/// Compresses a stream.
pub enum Encoder<W: Write> {
    /// Passes bytes through.
    None(W),
    /// gzip, level 6.
    Gzip(Box<flate2::write::GzEncoder<W>>),
    /// xz, level 6.
    Xz(Box<liblzma::write::XzEncoder<W>>),
    /// zstd.
    Zstd(Box<zstd::Encoder<'static, W>>),
    /// bzip2, level 9.
    Bzip2(Box<bzip2::write::BzEncoder<W>>),
}

impl<W: Write> Encoder<W> {
    /// An encoder. `fast` is for files that stay on this machine: zstd takes level 1 instead of 3, gzip 1 instead of 6.
    pub fn new(format: Compression, output: W, fast: bool) -> Result<Encoder<W>> {
        Ok(match format {
            Compression::None => Encoder::None(output),
            Compression::Gzip => {
                let level = flate2::Compression::new(if fast { 1 } else { 6 });
                // No name and no time in the header: the same tree gives the same bytes.
                Encoder::Gzip(Box::new(flate2::GzBuilder::new().write(output, level)))
            }
            Compression::Xz => Encoder::Xz(Box::new(liblzma::write::XzEncoder::new(output, if fast { 1 } else { 6 }))),
            Compression::Lzma => {
                return Err(Error::Unsupported { what: "lzma", hint: "write xz instead, which replaced it" });
            }
            Compression::Zstd => {
                let level = if fast { 1 } else { 3 };
                let mut encoder = zstd::Encoder::new(output, level).map_err(Error::Output)?;
                // Without it a flipped bit in a literal goes unseen.
                encoder.include_checksum(true).map_err(Error::Output)?;
                Encoder::Zstd(Box::new(encoder))
            }
            Compression::Bzip2 => {
                Encoder::Bzip2(Box::new(bzip2::write::BzEncoder::new(output, bzip2::Compression::best())))
            }
        })
    }

    /// Writes what is left and hands the output back; it is not flushed.
    pub fn finish(self) -> Result<W> {
        match self {
            Encoder::None(output) => Ok(output),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Xz(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
            Encoder::Bzip2(encoder) => encoder.finish(),
        }
        .map_err(Error::Output)
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::None(output) => output.write(bytes),
            Encoder::Gzip(encoder) => encoder.write(bytes),
            Encoder::Xz(encoder) => encoder.write(bytes),
            Encoder::Zstd(encoder) => encoder.write(bytes),
            Encoder::Bzip2(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::None(output) => output.flush(),
            Encoder::Gzip(encoder) => encoder.flush(),
            Encoder::Xz(encoder) => encoder.flush(),
            Encoder::Zstd(encoder) => encoder.flush(),
            Encoder::Bzip2(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that begin like a tar header and are neither very regular nor random.
    fn sample() -> Vec<u8> {
        let mut bytes: Vec<u8> = (0u32..300_000).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        bytes[257..262].copy_from_slice(b"ustar");
        bytes[0] = b'n';
        bytes
    }

    fn decoded(bytes: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut decoder = Decoder::new(Compression::detect(bytes)?, bytes)?;
        decoder.read_to_end(&mut out).map_err(Error::from_input)?;
        Ok(out)
    }

    const WRITTEN: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Xz, Compression::Zstd, Compression::Bzip2];

    fn encoded(format: Compression, bytes: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new(format, Vec::new(), true).expect("to memory");
        encoder.write_all(bytes).expect("to memory");
        encoder.finish().expect("to memory")
    }

    #[test]
    fn every_format_is_found_by_its_first_bytes_and_read_back() {
        for format in WRITTEN {
            let bytes = encoded(format, &sample());
            assert_eq!(Compression::detect(&bytes).expect("known"), format);
            assert_eq!(decoded(&bytes).expect("own output"), sample(), "{format}");
            if format != Compression::None {
                assert_eq!(decoded(&bytes.repeat(2)).expect("two in a row"), sample().repeat(2), "{format}");
            }
        }
    }

    #[test]
    fn broken_and_cut_data_is_a_typed_error() {
        for format in WRITTEN.into_iter().filter(|format| *format != Compression::None) {
            let whole = encoded(format, &sample());
            let cut = &whole[..whole.len() / 2];
            assert!(matches!(decoded(cut), Err(Error::Decompress { .. })), "{format} cut");
            let mut broken = whole.clone();
            let middle = broken.len() / 2;
            broken[middle..middle + 64].fill(0x55);
            assert!(matches!(decoded(&broken), Err(Error::Decompress { .. })), "{format} broken");
        }
    }

    #[test]
    fn a_zstd_window_of_two_gigabytes_is_refused() {
        // Frame header: no content size, window descriptor for 2^31 bytes; then an empty last block.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3, 0x01, 0x00, 0x00];
        assert!(matches!(decoded(&frame), Err(Error::Decompress { .. })));
    }

    #[test]
    fn an_xz_dictionary_of_two_gigabytes_is_refused() {
        let options = {
            let mut options = liblzma::stream::LzmaOptions::new_preset(0).expect("level 0");
            options.dict_size(8 << 20);
            options
        };
        let stream = liblzma::stream::Stream::new_lzma_encoder(&options).expect("an encoder");
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        encoder.write_all(&[0; 1000]).expect("to memory");
        let mut bytes = encoder.finish().expect("to memory");
        assert_eq!(decoded(&bytes).expect("8 MiB are fine").len(), 1000);
        bytes[1..5].copy_from_slice(&(1u32 << 31).to_le_bytes());
        assert!(matches!(decoded(&bytes), Err(Error::Decompress { .. })));
    }

    #[test]
    fn foreign_files_are_named_or_refused() {
        let disk = [&b"QFI\xfb"[..], &[0; 600]].concat();
        assert!(matches!(Compression::detect(&disk), Err(Error::Unsupported { what: "qcow2", .. })));
        assert!(matches!(Compression::detect(b"hsqs\0\0"), Err(Error::Unsupported { what: "squashfs", .. })));
        assert!(matches!(Compression::detect(b"<html>no such image</html>"), Err(Error::UnknownFormat)));
        assert!(matches!(Compression::detect(b""), Err(Error::UnknownFormat)));
    }
}
