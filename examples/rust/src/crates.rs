//! tract as Rust packages.

use crate::{Field, Outcome};
use tract_onnx::prelude::*;

/// A model's first output.
pub fn run(path: &str, fields: &[Field]) -> Outcome<Vec<f32>> {
    let mut model = tract_onnx::onnx().model_for_path(path)?;
    let mut inputs = tvec!();
    for (i, field) in fields.iter().enumerate() {
        model.set_input_fact(i, InferenceFact::dt_shape(f32::datum_type(), &field.shape))?;
        inputs.push(Tensor::from_shape(&field.shape, &field.numbers)?.into());
    }
    model.set_output_fact(0, InferenceFact::default())?;
    let answer = model.into_optimized()?.into_runnable()?.run(inputs)?;
    Ok(answer[0].to_plain_array_view::<f32>()?.iter().copied().collect())
}
