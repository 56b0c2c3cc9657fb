"""Pictures of a finished run: `distill analyze RUN_FOLDER`.

numbers (pure functions) and analysis_data (student and teacher, run over the test images) < one file a picture
(`draw(analysis) -> Picture | None`) < gallery (all of them) < page (one HTML file) < command.
"""
