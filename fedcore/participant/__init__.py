"""The participant: a Flower `ClientApp`, its stack of mods, and the site's data."""
