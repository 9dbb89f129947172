//! tract as a shared library, through its C interface (`tract.h`).

use crate::{Field, Outcome};
use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::ptr::null_mut;

type Handle = *mut c_void;
const FLOAT32: c_int = 0x34;

extern "C" {
    fn tract_get_last_error() -> *const c_char;
    fn tract_onnx_create(onnx: *mut Handle) -> c_int;
    fn tract_onnx_load(onnx: Handle, path: *const c_char, model: *mut Handle) -> c_int;
    fn tract_inference_fact_parse(model: Handle, words: *const c_char, fact: *mut Handle) -> c_int;
    fn tract_inference_model_input_count(model: Handle, count: *mut usize) -> c_int;
    fn tract_inference_model_set_input_fact(model: Handle, i: usize, fact: Handle) -> c_int;
    fn tract_inference_model_set_output_fact(model: Handle, i: usize, fact: Handle) -> c_int;
    fn tract_inference_model_into_model(model: *mut Handle, typed: *mut Handle) -> c_int;
    fn tract_model_into_runnable(model: *mut Handle, runnable: *mut Handle) -> c_int;
    fn tract_runnable_run(runnable: Handle, inputs: *mut Handle, outputs: *mut Handle) -> c_int;
    fn tract_tensor_from_bytes(kind: c_int, rank: usize, shape: *const usize, data: *const c_void, tensor: *mut Handle) -> c_int;
    fn tract_tensor_as_bytes(tensor: Handle, kind: *mut c_int, rank: *mut usize, shape: *mut *const usize, data: *mut *const c_void) -> c_int;
}

/// What tract says of a call.
fn check(result: c_int) -> Outcome<()> {
    if result == 0 {
        return Ok(());
    }
    let words = unsafe { CStr::from_ptr(tract_get_last_error()) }.to_string_lossy().into_owned();
    Err(words.split("\n\nStack backtrace").next().unwrap_or_default().into())
}

/// A model's first output. The handles are freed by the end of the process.
pub fn run(path: &str, fields: &[Field]) -> Outcome<Vec<f32>> {
    let (mut onnx, mut model, mut typed, mut runnable, mut answer) = (null_mut(), null_mut(), null_mut(), null_mut(), null_mut());
    let path = CString::new(path)?;
    unsafe {
        check(tract_onnx_create(&mut onnx))?;
        check(tract_onnx_load(onnx, path.as_ptr(), &mut model))?;
        let mut count = 0;
        check(tract_inference_model_input_count(model, &mut count))?;
        if count != fields.len() {
            return Err(format!("the model takes {count} inputs, {} were given", fields.len()).into());
        }
        let mut inputs = Vec::new();
        for (i, field) in fields.iter().enumerate() {
            let sizes: Vec<String> = field.shape.iter().map(usize::to_string).collect();
            let (words, mut fact, mut tensor) = (CString::new(format!("{},f32", sizes.join(",")))?, null_mut(), null_mut());
            check(tract_inference_fact_parse(model, words.as_ptr(), &mut fact))?;
            check(tract_inference_model_set_input_fact(model, i, fact))?;
            check(tract_tensor_from_bytes(FLOAT32, field.shape.len(), field.shape.as_ptr(), field.numbers.as_ptr().cast(), &mut tensor))?;
            inputs.push(tensor);
        }
        check(tract_inference_model_set_output_fact(model, 0, null_mut()))?;
        check(tract_inference_model_into_model(&mut model, &mut typed))?;
        check(tract_model_into_runnable(&mut typed, &mut runnable))?;
        check(tract_runnable_run(runnable, inputs.as_mut_ptr(), &mut answer))?;

        let (mut rank, mut shape, mut data) = (0, std::ptr::null(), std::ptr::null());
        check(tract_tensor_as_bytes(answer, null_mut(), &mut rank, &mut shape, &mut data))?;
        let size = std::slice::from_raw_parts(shape, rank).iter().product();
        Ok(std::slice::from_raw_parts(data.cast::<f32>(), size).to_vec())
    }
}
