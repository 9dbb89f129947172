//! One step of an exported model in tract: normalised fields in, normalised fields out, as raw little-endian float32.
//!
//!     cargo run --release -- edge.onnx y.bin x.bin=1,13,64,112 aux.bin=1,10,64,112
//!
//! The input files stand in the order of the model's inputs, each with its shape: samples, channels, rows, columns.

use std::{env, error::Error, fs, process::ExitCode};

#[cfg_attr(feature = "library", path = "library.rs")]
#[cfg_attr(not(feature = "library"), path = "crates.rs")]
mod engine;

pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// Numbers and their shape.
pub struct Field {
    pub shape: Vec<usize>,
    pub numbers: Vec<f32>,
}

/// `x.bin=1,13,64,112` as a field.
fn read(argument: &str) -> Outcome<Field> {
    let (path, sizes) = argument.split_once('=').ok_or("give each input as FILE=SAMPLES,CHANNELS,ROWS,COLUMNS")?;
    let shape = sizes.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
    let bytes = fs::read(path).map_err(|error| format!("{path} cannot be read: {error}"))?;
    if bytes.len() != 4 * shape.iter().product::<usize>() {
        return Err(format!("{path} has {} bytes, which are no float32 numbers of shape {shape:?}", bytes.len()).into());
    }
    let numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok(Field { shape, numbers })
}

fn step(args: &[String]) -> Outcome<()> {
    let [path, out, inputs @ ..] = args else { return Err("use: MODEL.onnx Y.bin X.bin=SHAPE [AUX.bin=SHAPE]".into()) };
    let fields = inputs.iter().map(|argument| read(argument)).collect::<Outcome<Vec<Field>>>()?;
    let answer = engine::run(path, &fields)?;
    let bytes: Vec<u8> = answer.iter().flat_map(|number| number.to_le_bytes()).collect();
    Ok(fs::write(out, bytes)?)
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match step(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
