"""The contracts of jaxseg, to hold one's own functions against.

    from jaxseg.testing import check_method, check_op

    def test_my_op():
        check_op(my_op, image, 7, options={"num_iters": 3, "sigma": np.float32(2)})

    def test_my_method():
        check_method(my_method(width=4), batch_of_eight_small_images)

A function that passes can be used as those of jaxseg are: traced, batched, differentiated, spread
over devices. Both raise `AssertionError` whose first words name the contract that broke; both
compile much and belong in a test, on small arrays.

To have several devices on a CPU, call `jax.config.update("jax_num_cpu_devices", 8)` before
anything else runs.
"""

from jaxseg.testing._method import check_method as check_method
from jaxseg.testing._op import check_op as check_op
