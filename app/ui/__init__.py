from app.ui.gradio_import import install

install()
