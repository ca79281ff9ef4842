"""What holds for every test: time is never judged, and a failure says how to have it again."""

import hypothesis

hypothesis.settings.register_profile("snapd", deadline=None, print_blob=True)
hypothesis.settings.load_profile("snapd")
