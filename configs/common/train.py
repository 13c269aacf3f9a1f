"""The `train` section that configs start from; `clipself_d2.engine.settings.TrainSettings` explains every value."""

train = dict(
    max_iter=1000,
    seed=0,
    device="auto",
    precision="bf16",
    accumulate=1,
    clip_grad_norm=None,
    compile=False,
    activation_checkpointing=False,
    log_period=50,
    eval_period=0,
    init_checkpoint="",
    checkpointer=dict(period=1000, max_to_keep=2),
    ddp=dict(find_unused_parameters=False, broadcast_buffers=False, gradient_as_bucket_view=True),
)
