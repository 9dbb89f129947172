//! One step of an exported model in tract: normalised fields in, normalised fields out, as raw little-endian float32.
//!
//!     cargo run --release -- edge.onnx y.bin x.bin=1,13,64,112 aux.bin=1,10,64,112
//!
//! The input files stand in the order of the model's inputs, each with its shape: samples, channels, rows, columns.

use std::{env, error::Error, fs};
use tract_onnx::prelude::*;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// `x.bin=1,13,64,112` as a tensor.
fn read(argument: &str) -> Outcome<Tensor> {
    let (path, sizes) = argument.split_once('=').ok_or("give each input as FILE=SAMPLES,CHANNELS,ROWS,COLUMNS")?;
    let shape = sizes.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
    let bytes = fs::read(path)?;
    if bytes.len() != 4 * shape.iter().product::<usize>() {
        return Err(format!("{path} has {} bytes, which are no float32 numbers of shape {shape:?}", bytes.len()).into());
    }
    let numbers: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok(Tensor::from_shape(&shape, &numbers)?)
}

fn main() -> Outcome<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [path, out, inputs @ ..] = &args[..] else { return Err("use: MODEL.onnx Y.bin X.bin=SHAPE [AUX.bin=SHAPE]".into()) };

    let mut model = tract_onnx::onnx().model_for_path(path)?;
    let mut fields = tvec!();
    for (i, argument) in inputs.iter().enumerate() {
        let field = read(argument)?;
        model.set_input_fact(i, InferenceFact::dt_shape(f32::datum_type(), field.shape()))?;
        fields.push(field.into());
    }
    model.set_output_fact(0, InferenceFact::default())?;

    let answer = model.into_optimized()?.into_runnable()?.run(fields)?;
    let bytes: Vec<u8> = answer[0].to_plain_array_view::<f32>()?.iter().flat_map(|v| v.to_le_bytes()).collect();
    Ok(fs::write(out, bytes)?)
}
